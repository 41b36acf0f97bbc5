"""Deep fusion in ``flow_policy bench sampling``: prefix passes are counted, and what is named is checked."""

import json

import pytest
import torch

from flow_policy_ros.cli.bench_fusion import FORMS, OVER_FEATURES, VLMS, fusion_rows
from flow_policy_ros.cli.main import main


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def test_a_cached_prefix_is_computed_once_and_an_uncached_one_in_each_step():
    pytest.importorskip("transformers")
    rows = fusion_rows(("tiny",), 1, 1)
    assert [(row["name"], row["vlm"]) for row in rows[::2]] == [*((n, None) for n in OVER_FEATURES), *((n, "tiny") for n in FORMS)]
    for row in rows:
        once = 1 if row["prefix_cache"] else 10
        # Where all see each other there is no prefix to keep but the images': the decoder reads all of it in every step.
        assert row["prefix_passes"] == (10 if row["name"] == "deep_mutual" else once), row["name"]
        assert row["image_passes"] == (once if row["vlm"] else 0), row["name"]
        assert row["prefix_tokens"] == (37 if row["vlm"] else 60)
        assert row["steps"] == 10 and row["chunk_ms_p99"] >= row["chunk_ms_p50"] > 0 and row["step_ms"] > 0
        assert (row["see_ms"] is None) == (row["vlm"] is None) and row["condition_ms"] > 0
        assert (row["parameters"] > row["parameters_without_vlm"]) == (row["vlm"] is not None)
    json.dumps(rows)


def test_the_large_model_has_the_size_that_its_name_says():
    transformers = pytest.importorskip("transformers")
    from flow_policy_ros.models.prefix import vlm_config

    with torch.device("meta"):
        vlm = transformers.AutoModel.from_config(vlm_config(VLMS["smolvlm_256m"].config()))
    assert 220e6 < sum(p.numel() for p in vlm.parameters()) < 270e6 and VLMS["smolvlm_256m"].tokens == 64


def test_an_unknown_size_is_named(capsys):
    assert main(["bench", "sampling", "--vlms", "huge"]) == 2
    assert "--vlms names huge, expected some of: tiny, smolvlm_256m" in capsys.readouterr().err
