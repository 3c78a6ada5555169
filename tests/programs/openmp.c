/*
 * openmp.c: a stencil over a grid of integers with OpenMP: a digest a round, the same for any
 * number of threads. Usage: openmp ROUNDS [STEP_MS]
 */
#include "target.h"

#define SIDE 1024

static uint64_t step(const uint64_t *from, uint64_t *to)
{
	uint64_t digest = 0;

#pragma omp parallel for reduction(+ : digest) schedule(dynamic, 16)
	for (int y = 0; y < SIDE; y++) {
		for (int x = 0; x < SIDE; x++) {
			uint64_t up = from[(y + SIDE - 1) % SIDE * SIDE + x];
			uint64_t left = from[y * SIDE + (x + SIDE - 1) % SIDE];

			to[y * SIDE + x] = mix64(from[y * SIDE + x] + 3 * up + 5 * left);
			digest += to[y * SIDE + x];
		}
	}
	return digest;
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	long rounds = atol(argv[1]), step_ms = argc > 2 ? atol(argv[2]) : 0;
	uint64_t *a = malloc(SIDE * SIDE * sizeof(*a)), *b = malloc(SIDE * SIDE * sizeof(*b));

	setvbuf(stdout, NULL, _IOLBF, 0);
	pattern_fill(a, SIDE * SIDE * sizeof(*a), 7);
	for (long i = 1; i <= rounds; i++) {
		printf("round %ld %016llx\n", i, (unsigned long long)step(a, b));
		uint64_t *swap = a;

		a = b;
		b = swap;
		sleep_ms(step_ms);
	}
	free(a);
	free(b);
	puts("PASS");
	return 0;
}
