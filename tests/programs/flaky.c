/*
 * flaky.c: a job that dies of SIGSEGV in the middle of its work, as often as FILE says (a decimal
 * number, counted down by each death). Usage: flaky STEPS STEP_MS DIE_AT FILE
 */
#include "target.h"

#include <signal.h>

static bool count_down(const char *path)
{
	FILE *f = fopen(path, "re");
	int left = 0;

	if (!f || fscanf(f, "%d", &left) != 1)
		left = 0;
	if (f)
		fclose(f);
	if (left <= 0)
		return false;
	f = fopen(path, "we");
	CHECK(f);
	fprintf(f, "%d\n", left - 1);
	fclose(f);
	return true;
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	long steps = atol(argv[1]), step_ms = atol(argv[2]), die_at = atol(argv[3]);
	uint64_t state = 1;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (long i = 1; i <= steps; i++) {
		state = mix64(state ^ (uint64_t)i);
		printf("step %ld %016llx\n", i, (unsigned long long)state);
		sleep_ms(step_ms);
		if (i == die_at && count_down(argv[4]))
			raise(SIGSEGV);
	}
	puts("PASS");
	return 0;
}
