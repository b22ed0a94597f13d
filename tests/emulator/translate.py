"""A CUDA source as C++ for the emulator: launches and shared memory of a size known at the launch alone are rewritten.

    python3 translate.py FROM.cu TO.cpp
"""
import re
import sys


def closing(text, start):
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i
    raise ValueError("a parenthesis is not closed")


def name_before(text, end):
    """Where the name that ends at `end` begins, with its arguments in angle brackets if it has any."""
    start, depth = end, 0
    while depth > 0 or text[start - 1] in "<>" or re.match(r"\w", text[start - 1]):
        start -= 1
        depth += {">": 1, "<": -1}.get(text[start], 0)
    return start


def parts(text):
    """`text` cut at its outermost commas."""
    found, depth = [""], 0
    for c in text:
        depth += {"(": 1, "{": 1, "<": 1, ")": -1, "}": -1, ">": -1}.get(c, 0)
        if c == "," and depth == 0:
            found.append("")
        else:
            found[-1] += c
    return found


def translate(text):
    text = re.sub(r"extern __shared__ (?:__align__\(\d+\) )?([\w ]+?) (\w+)\[\];", r"\1* const \2 = static_cast<\1*>(::ceiling::emulator::dynamic_shared());", text)
    while found := re.search(r"\s*<<<(.*?)>>>\s*\(", text, re.S):
        start, end = name_before(text, found.start()), closing(text, found.end() - 1)
        grid, block, shared, _ = parts(found[1])
        kernel = f"{text[start:found.start()]}({text[found.end():end]});"
        text = f"{text[:start]}::ceiling::emulator::launch({grid}, {block}, {shared}, [&] {{ {kernel} }}){text[end + 1:]}"
    return text


if __name__ == "__main__":
    with open(sys.argv[1]) as source:
        translated = translate(source.read())
    with open(sys.argv[2], "w") as out:
        out.write(f'#line 1 "{sys.argv[1]}"\n{translated}')
