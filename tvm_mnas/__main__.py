"""`python -m tvm_mnas` is `tvm-mnas`."""

from tvm_mnas.cli import main

if __name__ == "__main__":
    main()
