"""What people see of a robot, live or recorded: snapshots of its topics, a page in the browser, Rerun.

Topics or a recording → ``intake`` (a few messages of each interval) → ``watch`` (one ``Snapshot`` after the other) → ``feed`` and
``server`` (the page), or ``rerun_log``. Nothing here imports ROS; the live side is ``nodes.view_node``.
"""
