"""``python run_recbole_sid.py``: the same as the console command ``recbole-sid``."""

import sys

from recbole_sid.cli import main

if __name__ == "__main__":
    sys.exit(main())
