from hyle.cli import main
import sys
sys.exit(main())
