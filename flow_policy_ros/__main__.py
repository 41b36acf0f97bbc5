"""``python -m flow_policy_ros``: the same as the ``flow_policy`` program."""

import sys

from flow_policy_ros.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
