"""Writes a C project of COUNT modules, a library and a recursive make. Usage: make.py COUNT"""
import os
import random
import sys

MAKEFILE = """\
CFLAGS = -O1 -Wall -MMD
export TMPDIR := $(CURDIR)
objects := $(patsubst %.c,%.o,$(sort $(wildcard part*.c)))
all: program check
program: main.o libparts.a sub/libsub.a
\t$(CC) -o $@ main.o libparts.a sub/libsub.a
libparts.a: $(objects)
\tar rcsD $@ $(objects)
sub/libsub.a: force
\t+$(MAKE) --no-print-directory -C sub
check: program
\t./program >result
\tsha256sum program libparts.a sub/libsub.a >sums
\tcat sums result
main.o: parts.h
parts.h: $(objects:.o=.c)
\tsed -n 's/^\\(long f[0-9]*(.*)\\)$$/\\1;/p' $^ >$@.new && mv $@.new $@
.PHONY: all check force
-include *.d
"""
SUB = """\
objects := $(patsubst %.c,%.o,$(sort $(wildcard *.c)))
libsub.a: $(objects)
\tar rcsD $@ $(objects)
%.o: %.c
\t$(CC) -O2 -c -o $@ $<
"""


def module(rng, n):
    body = "".join(f"\tfor (i = 0; i < {rng.randrange(9, 99)}; i++)\n"
                   f"\t\ta[i & 15] = a[{rng.randrange(16)}] * {rng.randrange(3, 999)} + (x ^ {rng.randrange(99)});\n"
                   for _ in range(40))
    return (f"long f{n}(long x)\n{{\n\tstatic long a[16] = {{ {n}, 3 }};\n\tlong i;\n\n{body}"
            f"\treturn a[{n % 16}];\n}}\n")


def write(path, text):
    with open(path, "w", encoding="ascii") as f:
        f.write(text)


def main():
    rng, count = random.Random(11), int(sys.argv[1])
    os.makedirs("sub", exist_ok=True)
    for n in range(count):
        write(f"part{n}.c", module(rng, n))
        write(f"sub/sub{n}.c", module(rng, count + n))
    calls = "".join(f"\tx = x * 31 + f{n}(x & 1023);\n" for n in range(count))
    subs = "".join(f"long f{count + n}(long);\n" for n in range(count))
    calls += "".join(f"\tx = x * 31 + f{count + n}(x & 1023);\n" for n in range(count))
    write("main.c", f"#include <stdio.h>\n#include \"parts.h\"\n{subs}int main(void)\n{{\n\tlong x = 1;\n\n{calls}"
                    "\tprintf(\"%ld\\n\", x);\n\treturn 0;\n}\n")
    write("Makefile", MAKEFILE)
    write("sub/Makefile", SUB)


main()
