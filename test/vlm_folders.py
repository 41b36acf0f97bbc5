"""Tiny random models of the `transformers` classes that a user would name, saved as folders with their processors: no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from flow_policy_ros.vision.pretrained import import_transformers

SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>", "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>",
           "<video>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]  # fmt: skip
WORDS = ["move", "the", "red", "blue", "cube", "to", "left", "right", "goal", "door", "open", "pen", "ball", "user", "assistant"]
VOCABULARY = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
VISION: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                          "image_size": 32, "patch_size": 8}  # fmt: skip
TEXT: dict[str, Any] = {"hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
                        "vocab_size": 64, "max_position_embeddings": 16,
                        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
LM = {**TEXT, "num_key_value_heads": 1, "max_position_embeddings": 256, "head_dim": 6}
CUT = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
SQUEEZED = {"size": {"height": 32, "width": 32}}
TEMPLATE = (
    "user {% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE {% else %}{{ c['text'] }}"
    "{% endif %}{% endfor %}{% endfor %} assistant"
)


def tokenizer(image_token: str = "<image>", longest: int = 256, ends: bool = False) -> Any:
    """Of ``WORDS``; anything else is unknown. With ``ends``, text lies between begin and end tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    inner = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if ends:
        inner.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)])
    return import_transformers().PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        additional_special_tokens=SPECIAL[4:], model_max_length=longest, extra_special_tokens={"image_token": image_token},
    )  # fmt: skip


def tiny(kind: str, folder: Path) -> Path:
    """A model folder of this kind, random weights of a fixed seed."""
    torch.manual_seed(0)
    for part in MAKERS[kind](import_transformers()):
        part.save_pretrained(folder)
    return folder


def dinov2(t: Any) -> list[Any]:
    crop = {**CUT, "size": {"shortest_edge": 40}}
    return [t.Dinov2Model(t.Dinov2Config(**VISION, mlp_ratio=2)), t.BitImageProcessor(**crop, do_convert_rgb=True)]


def dinov3(t: Any) -> list[Any]:
    return [t.DINOv3ViTModel(t.DINOv3ViTConfig(**VISION, num_register_tokens=4)), t.DINOv3ViTImageProcessor(**SQUEEZED)]


def siglip(t: Any) -> list[Any]:
    text = {**TEXT, "hidden_size": 16, "projection_size": 16}
    model = t.SiglipModel(t.SiglipConfig(text_config=text, vision_config=VISION))
    return [model, t.SiglipImageProcessor(**SQUEEZED), tokenizer(longest=16)]


def siglip2(t: Any) -> list[Any]:
    text = {**TEXT, "hidden_size": 16, "projection_size": 16}
    vision = {**{k: v for k, v in VISION.items() if k != "image_size"}, "num_patches": 16}
    model = t.Siglip2Model(t.Siglip2Config(text_config=text, vision_config=vision))
    return [model, t.Siglip2ImageProcessor(patch_size=8, max_num_patches=16), tokenizer(longest=16)]


def clip(t: Any) -> list[Any]:
    model = t.CLIPModel(t.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=10))
    return [model, t.CLIPImageProcessor(**CUT), tokenizer(longest=16, ends=True)]


def llava(t: Any) -> list[Any]:
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**VISION, projection_dim=10), text_config=t.LlamaConfig(**LM),
        image_token_index=VOCABULARY["<image>"], image_seq_length=16,
    )  # fmt: skip
    processor = t.LlavaProcessor(
        t.CLIPImageProcessor(**CUT), tokenizer(), patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )  # fmt: skip
    return [t.LlavaForConditionalGeneration(config), processor]


def paligemma(t: Any) -> list[Any]:
    config = t.PaliGemmaConfig(
        vision_config=t.SiglipVisionConfig(**VISION, vision_use_head=False), text_config=t.GemmaConfig(**LM), projection_dim=12,
        image_token_index=VOCABULARY["<image>"],
    )  # fmt: skip
    images = t.SiglipImageProcessor(**SQUEEZED)
    images.image_seq_length = 16
    return [t.PaliGemmaForConditionalGeneration(config), t.PaliGemmaProcessor(images, tokenizer())]


def smolvlm(t: Any, split: bool = False) -> list[Any]:
    config = t.SmolVLMConfig(
        vision_config=VISION, text_config={**LM, "model_type": "llama"}, scale_factor=2, image_token_id=VOCABULARY["<image>"],
        pad_token_id=0,
    )  # fmt: skip
    size = {"longest_edge": 64 if split else 32}
    images = t.SmolVLMImageProcessor(size=size, max_image_size={"longest_edge": 32}, do_image_splitting=split)
    return [
        t.SmolVLMForConditionalGeneration(config),
        t.SmolVLMProcessor(images, tokenizer(), t.SmolVLMVideoProcessor(), image_seq_len=4),
    ]


def smolvlm_split(t: Any) -> list[Any]:
    """As SmolVLM does by default: the image in parts, and whole."""
    return smolvlm(t, split=True)


def qwen(t: Any) -> list[Any]:
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 24, "patch_size": 8,
              "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 32, "fullatt_block_indexes": [1]}  # fmt: skip
    text = {**LM, "hidden_size": 24, "head_dim": 12, "rope_scaling": {"type": "mrope", "mrope_section": [2, 2, 2]}}
    config = t.Qwen2_5_VLConfig(
        vision_config=vision, text_config=text, image_token_id=VOCABULARY["<|image_pad|>"],
        video_token_id=VOCABULARY["<|video_pad|>"], vision_start_token_id=VOCABULARY["<|vision_start|>"],
        vision_end_token_id=VOCABULARY["<|vision_end|>"],
    )  # fmt: skip
    images = t.Qwen2VLImageProcessor(patch_size=8, merge_size=2, temporal_patch_size=2, min_pixels=16 * 16, max_pixels=64 * 64)
    template = TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    processor = t.Qwen2_5_VLProcessor(images, tokenizer("<|image_pad|>"), t.Qwen2VLVideoProcessor(), chat_template=template)
    return [t.Qwen2_5_VLForConditionalGeneration(config), processor]


MAKERS = {f.__name__: f for f in (dinov2, dinov3, siglip, siglip2, clip, llava, paligemma, smolvlm, smolvlm_split, qwen)}
TOWERS = ("dinov2", "dinov3", "siglip", "siglip2", "clip")
PROMPTED = ("llava", "paligemma", "smolvlm", "smolvlm_split", "qwen")
