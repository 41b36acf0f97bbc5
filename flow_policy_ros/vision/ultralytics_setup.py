"""Import ultralytics so that it never uses the network, installs nothing and leaves the user's own settings alone.

Every import of ultralytics in this package goes through ``import_ultralytics``. No detector logic here.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from flow_policy_ros.vision.torchvision_ops import ensure_torchvision


def import_ultralytics() -> Any:
    """The ultralytics module, offline. Raises ``ImportError`` naming the package when it is not installed."""
    if "ultralytics" not in sys.modules:  # it reads these when it is imported
        os.environ["YOLO_CONFIG_DIR"] = str(_writable_folder())  # its settings file lies apart from the user's own
        os.environ.update({"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0", "ULTRALYTICS_SAFE_LOAD": "1", "YOLO_VERBOSE": "false"})
    ensure_torchvision()
    try:
        import ultralytics
        import ultralytics.data.utils as data_utils
    except ImportError as error:
        raise ImportError(
            f"the detector needs ultralytics, which cannot be imported ({error}). Install it: pip install ultralytics "
            "(AGPL-3.0; everything else in this package works without it)."
        ) from error
    if ultralytics.settings.get("sync"):
        ultralytics.settings.update({"sync": False})
    # Training asks for a font, downloading it when absent; only plots use it, and none are drawn here.
    data_utils.check_font = lambda font=None: None
    return ultralytics


def _writable_folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flow_policy_ros"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK):
            return cache
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="flow_policy_ros_"))
