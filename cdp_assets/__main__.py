"""``python -m cdp_assets`` is ``cdp``."""

from cdp_assets.cli import main

main()
