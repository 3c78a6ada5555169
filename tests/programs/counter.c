/*
 * counter.c: the smallest job. Prints a line a step, appends every tenth to a file.
 * Usage: counter STEPS STEP_MS [FILE]
 */
#include "target.h"

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	long steps = atol(argv[1]), step_ms = atol(argv[2]);
	FILE *out = argc > 3 ? fopen(argv[3], "w") : NULL;
	uint64_t state = 1;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (long i = 1; i <= steps; i++) {
		state = mix64(state ^ (uint64_t)i);
		printf("step %ld %016llx\n", i, (unsigned long long)state);
		if (out && i % 10 == 0)
			fprintf(out, "%ld %016llx\n", i, (unsigned long long)state);
		if (out && i % 50 == 0)
			fflush(out);
		sleep_ms(step_ms);
	}
	if (out)
		fclose(out);
	puts("PASS");
	return 0;
}
