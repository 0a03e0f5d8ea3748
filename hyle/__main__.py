import sys

from hyle.cli import main

sys.exit(main())
