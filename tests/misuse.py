"""What the product's source must not do with secrets and with what comes from outside: found in its syntax trees.

test_misuse.py says which findings are meant, and why. What ruff looks at (its rules S) is not looked at again here.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

SECRET_WORDS = {
    "commit", "committed", "confirmation", "cookie", "cookies", "digest", "hmac", "key", "keys", "mac", "mac1", "mac2",
    "passphrase", "password", "pin", "preshared", "private", "proof", "psk", "secret", "secrets", "seed", "shared",
    "signature", "static", "tag", "token",
}  # fmt: skip
"""A name with one of these words may stand for something that is known to one side alone."""

PUBLIC_WORDS = {
    "algorithm", "at", "bytes", "count", "epoch", "file", "files", "id", "ids", "index", "kind", "label", "length",
    "limit", "name", "names", "number", "path", "public", "rate", "ref", "refs", "size", "sizes", "state", "type",
    "until",
}  # fmt: skip
"""With one of these it is about such a thing: a key's ID, its size, where its file lies."""

SECRET_CALLS = {"mac", "digest", "hexdigest", "reveal", "derive", "expand", "exchange", "decaps", "encaps"}
"""What a method of one of these names returns counts too, whatever it is called."""

CODE_THAT_RUNS_DATA = {
    "eval", "exec", "compile", "__import__", "pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle",
    "jsonpickle", "imp", "code", "codeop",
}  # fmt: skip
"""Built-ins and modules by which data may become code."""

SHELLS = {"system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell"}

WEAK_TLS = {"CERT_NONE", "CERT_OPTIONAL", "_create_unverified_context"}


@dataclass(frozen=True)
class Found:
    """Something at a place. text: the source of the expression, by which an exemption names it."""

    line: int
    text: str


def words(name: str) -> set[str]:
    return set(re.findall(r"[a-z]+[0-9]*|[0-9]+", name.lower()))


def _may_be_secret(node: ast.expr) -> bool:
    """Whether the expression's name says that it may be known to one side alone."""
    if isinstance(node, ast.Subscript | ast.Starred | ast.Await):
        return _may_be_secret(node.value)
    if isinstance(node, ast.BinOp):
        return _may_be_secret(node.left) or _may_be_secret(node.right)
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(_may_be_secret(one) for one in node.elts)
    if isinstance(node, ast.NamedExpr):
        return _may_be_secret(node.target) or _may_be_secret(node.value)
    if isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called.strip("_") in SECRET_CALLS:
            return True
        return called in ("bytes", "bytearray", "memoryview") and any(_may_be_secret(one) for one in node.args)
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    if name.isupper():  # a constant of the source, or a member of an enumeration
        return False
    its = words(name)
    return bool(its & SECRET_WORDS) and not its & PUBLIC_WORDS


def _cannot_be_secret(node: ast.expr) -> bool:
    """Whether it is written in the source, so no secret: a literal, a constant, a member of an enumeration."""
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return all(_cannot_be_secret(one) for one in node.elts)
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name.isupper() and len(name) > 1


def comparisons(tree: ast.AST) -> Iterator[Found]:
    """``==`` and ``!=`` between two things, one of which has the name of a secret: they end at the first difference."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        for (left, right), operation in zip(itertools.pairwise(sides), node.ops, strict=True):
            if not isinstance(operation, ast.Eq | ast.NotEq):
                continue
            fixed = _cannot_be_secret(left) or _cannot_be_secret(right)
            named = _may_be_secret(left) or _may_be_secret(right)
            if (named and not fixed) or _reveals(left) or _reveals(right):
                yield Found(node.lineno, ast.unparse(node))


def _reveals(node: ast.expr) -> bool:
    """Whether the bytes of a Secret are taken out for it, which compares by itself."""
    calls = (one.func for one in ast.walk(node) if isinstance(one, ast.Call))
    return any(isinstance(func, ast.Attribute) and func.attr == "reveal" for func in calls)


def checks_that_vanish(tree: ast.AST) -> Iterator[Found]:
    """Assertions, which python -O leaves out. Those that only tell a type checker what is so anyway are none: ``is not
    None`` and ``isinstance``, after which the code could not go on with anything else."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and not _is_narrowing(node.test):
            yield Found(node.lineno, ast.unparse(node))


def _is_narrowing(test: ast.expr) -> bool:
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return all(_is_narrowing(one) for one in test.values)
    if isinstance(test, ast.Compare):
        none = test.comparators[-1]
        return isinstance(test.ops[0], ast.IsNot) and isinstance(none, ast.Constant) and none.value is None
    return isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "isinstance"


def chance(tree: ast.AST) -> Iterator[Found]:
    """Generators of random numbers that can be foretold: the module ``random``, and numpy's."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            bad = any(one.name.split(".")[0] == "random" for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            bad = node.module in ("random", "numpy.random")
        elif isinstance(node, ast.Attribute):
            bad = node.attr == "random" and getattr(node.value, "id", "") in ("np", "numpy")
        else:
            continue
        if bad:
            yield Found(node.lineno, ast.unparse(node))


def dangers(tree: ast.AST) -> Iterator[Found]:
    """Data that becomes code, shells, files with a name that can be foretold, TLS that trusts anybody."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            bad = any(one.name.split(".")[0] in CODE_THAT_RUNS_DATA for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            bad = (node.module or "").split(".")[0] in CODE_THAT_RUNS_DATA
        elif isinstance(node, ast.Call):
            bad = _is_dangerous(node)
        elif isinstance(node, ast.Attribute):
            bad = node.attr in WEAK_TLS
        elif isinstance(node, ast.Assign):
            off = isinstance(node.value, ast.Constant) and node.value.value is False
            bad = off and any(getattr(one, "attr", "") == "check_hostname" for one in node.targets)
        else:
            continue
        if bad:
            yield Found(node.lineno, ast.unparse(node))


def _is_dangerous(call: ast.Call) -> bool:
    named = {one.arg: one.value for one in call.keywords}
    shell = named.get("shell")
    if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
        return True
    if isinstance(call.func, ast.Name):
        if call.func.id == "YAML":  # ruamel's loader: unsafe makes objects of whatever the file names
            kind = named.get("typ", call.args[0] if call.args else None)
            return not (isinstance(kind, ast.Constant) and kind.value in ("safe", "rt"))
        return call.func.id in CODE_THAT_RUNS_DATA | SHELLS
    if not isinstance(call.func, ast.Attribute):
        return False
    of = getattr(call.func.value, "id", "")
    if of == "yaml" and call.func.attr in ("load", "load_all", "full_load", "unsafe_load"):
        return True
    if of == "tempfile" and call.func.attr == "mktemp":
        return True
    if of == "hashlib" and call.func.attr in ("md5", "sha1", "new"):
        return True
    return call.func.attr in SHELLS and of in ("os", "subprocess", "asyncio", "commands")
