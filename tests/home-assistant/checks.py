"""Prints one line for each check. The first that fails ends the test."""

passed = 0


def scene(title):
    print(f"\n{title}", flush=True)


def ok(what):
    global passed
    passed += 1
    print(f"  ok  {what}", flush=True)


def expect(what, expected, actual):
    assert actual == expected, f"{what}: expected {expected!r}, but got {actual!r}"
    ok(f"{what}: {'none' if actual in ([], set(), None) else actual}")


def expect_in(what, part, whole):
    assert part in whole, f"{what}: expected {part!r} in {whole!r}"
    ok(f"{what}: {part}")
