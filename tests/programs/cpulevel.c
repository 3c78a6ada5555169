/*
 * cpulevel.c: prints which features the C library goes by, and checks that they stay what they are.
 */
#include "target.h"

#include <string.h>
#include <sys/platform/x86.h>

struct seen {
	bool avx, avx2, fma, bmi2, avx512f, aes;
};

static struct seen look(void)
{
	return (struct seen){
		.avx = CPU_FEATURE_ACTIVE(AVX),
		.avx2 = CPU_FEATURE_ACTIVE(AVX2),
		.fma = CPU_FEATURE_ACTIVE(FMA),
		.bmi2 = CPU_FEATURE_ACTIVE(BMI2),
		.avx512f = CPU_FEATURE_ACTIVE(AVX512F),
		.aes = CPU_FEATURE_ACTIVE(AES),
	};
}

int main(int argc, char **argv)
{
	struct target target = {0};
	const struct seen before = look();
	struct seen after;

	printf("avx=%d avx2=%d fma=%d bmi2=%d avx512f=%d\n", before.avx, before.avx2, before.fma,
	       before.bmi2, before.avx512f);
	fflush(stdout);
	target_start(&target, argc, argv);
	target_ready(&target);
	target_wait(&target);
	after = look();
	CHECK(memcmp(&before, &after, sizeof(before)) == 0);
	return target_pass(&target);
}
