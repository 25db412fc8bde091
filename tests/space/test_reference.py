"""The reference of the space file: it names what the parser takes, and its example is a space."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvm_mnas.errors import SpaceError
from tvm_mnas.space.architecture import KERNEL_SIZES, SkipOp
from tvm_mnas.space.files import parse_space
from tvm_mnas.space.reference import EXAMPLE, key_names, space_reference
from tvm_mnas.space.space import OPERATIONS

TABLES = ("", "input", "stem", "head", "choices", "blocks")
EVERY_OPERATION = ", ".join(f'"{operation}"' for operation in OPERATIONS)
EVERY_SKIP = ", ".join(f'"{op.value}"' for op in SkipOp)


def test_the_example_is_a_space_of_the_size_that_its_lists_make() -> None:
    space = parse_space(EXAMPLE, Path("example.toml"))
    first, second = space.blocks
    # 12 rounds to 16, and a block has at least one layer.
    assert (first.filters, first.layers) == ((16, 24), (1, 2))
    assert (second.filters, second.layers) == ((24, 32), (1, 2, 3))
    assert space.size == (3 * 2 * 2 * 2 * 2) * (2 * 2 * 2 * 3)


def test_the_example_uses_every_key() -> None:
    for table in TABLES:
        for key in key_names(table):
            assert f"{key} = " in EXAMPLE, f"{table} {key}"


def test_every_permitted_value_is_read_and_printed() -> None:
    text = EXAMPLE.replace(
        'conv_op = ["sepconv", "mbconv3", "mbconv6"]', f"conv_op = [{EVERY_OPERATION}]"
    )
    text = text.replace("kernel_size = [3, 5]", f"kernel_size = {list(KERNEL_SIZES)}")
    text = text.replace('skip_op = ["identity"]', f"skip_op = [{EVERY_SKIP}]")
    block = parse_space(text, Path("all.toml")).blocks[0]
    assert block.operations == OPERATIONS
    assert block.kernel_sizes == KERNEL_SIZES
    assert block.skip_ops == tuple(op.value for op in SkipOp)
    reference = space_reference()
    for operation in (*OPERATIONS, *block.skip_ops):
        assert f"`{operation}`" in reference


@pytest.mark.parametrize("table", TABLES)
def test_no_other_key_is_read(table: str) -> None:
    if not table:
        text = "depth = 3\n" + EXAMPLE
    else:
        header = f"[[{table}]]" if table == "blocks" else f"[{table}]"
        start = EXAMPLE.index(header)
        end = EXAMPLE.index("\n", start)
        text = f"{EXAMPLE[:end]}\ndepth = 3{EXAMPLE[end:]}"
    with pytest.raises(SpaceError, match=r"depth is not a key here"):
        parse_space(text, Path("example.toml"))
