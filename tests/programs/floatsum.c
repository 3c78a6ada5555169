/*
 * floatsum.c: floating point that shows every lost bit: a chaotic map and a long-double sum,
 * printed as hexadecimal floats. Usage: floatsum ROUNDS [STEP_MS]
 */
#include "target.h"

#include <math.h>

#define STEPS_A_ROUND 1000000

int main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	long rounds = atol(argv[1]), step_ms = argc > 2 ? atol(argv[2]) : 0;
	double x = 0.123456789;
	long double sum = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (long i = 1; i <= rounds; i++) {
		for (int j = 0; j < STEPS_A_ROUND; j++) {
			x = 3.99 * x * (1.0 - x);
			sum += sqrtl(x) / (j + 1);
		}
		printf("round %ld %a %La\n", i, x, sum);
		sleep_ms(step_ms);
	}
	puts("PASS");
	return 0;
}
