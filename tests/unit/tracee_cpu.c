/*
 * Levels of x86-64, what lies beyond them, and extended registers in the layout of another CPU.
 */
#include "unit.h"

#include <string.h>

#include "checkpointer/tracee/arch.h"

/* Feature words as x86_64_cpu.c orders them: leaf 1 ecx edx, leaf 7 ebx ecx edx, 7.1 eax, d.1 eax,
 * 80000001 ecx edx. */
static const uint32_t nehalem[9] = {0x0098e3fd, 0xbfebfbff, 0, 0, 0, 0, 0, 1, 1u << 27};
static const uint32_t haswell[9] = {0x7ffafbff, 0xbfebfbff, 0x000027ab, 0, 0, 0, 1, 0x21, 1u << 27};
static const uint32_t skylake_x[9] = {0x7ffefbff, 0xbfebfbff, 0xd39ffffb, 8, 0, 0, 0xf, 0x121, 1u << 27};

static bool is_beyond(const uint32_t *words, unsigned level, const char *name)
{
	struct arch_feature f;
	size_t at = 0;

	while (arch_feature_beyond(words, 9, level, &at, &f))
		if (strcmp(f.name, name) == 0)
			return true;
	return false;
}

static void test_levels(void **state)
{
	const uint32_t nothing[9] = {0};

	assert_int_equal(arch_cpu_level(nothing, 9), 1);
	assert_int_equal(arch_cpu_level(nehalem, 9), 2);
	assert_int_equal(arch_cpu_level(haswell, 9), 3);
	assert_int_equal(arch_cpu_level(skylake_x, 9), 4);
	assert_int_equal(arch_cpu_level(skylake_x, 0), 1);
}

static void test_beyond(void **state)
{
	assert_true(is_beyond(haswell, 2, "AVX2"));
	assert_true(is_beyond(haswell, 2, "AVX"));
	assert_false(is_beyond(haswell, 2, "SSE4.2"));
	assert_false(is_beyond(haswell, 3, "AVX2"));
	assert_false(is_beyond(haswell, 2, "AVX-512F"));
	assert_true(is_beyond(skylake_x, 3, "AVX-512F"));
	assert_false(is_beyond(skylake_x, 4, "AVX-512F"));
	assert_true(is_beyond(skylake_x, 4, "PKU"));
}

static void test_other_cpu(void **state)
{
	uint32_t words[16], better[16];
	size_t n = arch_cpuid_words(words, 16);
	struct err err;

	assert_int_equal(arch_check_cpu(words, n, arch_xcr0(), 0, &err), 0);
	memcpy(better, words, sizeof(better));
	better[3] |= 1u << 28; /* MOVDIR64B, which few have */
	if (words[3] >> 28 & 1)
		skip();
	assert_fails(arch_check_cpu(better, n, arch_xcr0(), 0, &err), ERR_UNSUPPORTED, &err);
	assert_non_null(strstr(err.msg, "MOVDIR64B"));
	assert_int_equal(arch_check_cpu(better, n, arch_xcr0(), 4, &err), 0);
	assert_fails(arch_check_cpu(words, n, 1ull << 62, 0, &err), ERR_UNSUPPORTED, &err);
	assert_int_equal(arch_check_cpu(words, n, 1ull << 62, 2, &err), 0);
}

/* AVX (2) and PKRU (9), as two vendors have them. */
static const struct arch_component wide[] = {{2, 576, 256}, {9, 2688, 8}};
static const struct arch_component narrow[] = {{2, 576, 256}, {9, 832, 8}};

static void fill(uint8_t *area, size_t len, uint64_t in_use)
{
	for (size_t i = 0; i < len; i++)
		area[i] = (uint8_t)(i * 7);
	memset(area + 512, 0, 64);
	memcpy(area + 512, &in_use, sizeof(in_use));
}

static void test_layouts(void **state)
{
	uint8_t saved[2696], out[840];
	struct err err;

	fill(saved, sizeof(saved), 0x207);
	assert_int_equal(arch_convert_xstate(saved, sizeof(saved), wide, 2, narrow, 2, out, sizeof(out), &err),
			 0);
	assert_memory_equal(out, saved, 512);
	assert_int_equal(arch_xstate_in_use(out, sizeof(out)), 0x207);
	assert_memory_equal(out + 576, saved + 576, 256);
	assert_memory_equal(out + 832, saved + 2688, 8);
	/* Rights of protection keys are left behind where there are none. */
	assert_int_equal(arch_convert_xstate(saved, sizeof(saved), wide, 2, narrow, 1, out, sizeof(out), &err),
			 0);
	assert_int_equal(arch_xstate_in_use(out, sizeof(out)), 7);
}

/* A layout out of a file must not lead anywhere else. */
static void test_hostile_layouts(void **state)
{
	const struct arch_component bad[][2] = {
		{{2, 0xfffffff0, 256}, {9, 832, 8}}, {{2, 576, 0xffffffff}, {9, 832, 8}},
		{{2, 500, 256}, {9, 832, 8}},	     {{2, 700, 256}, {9, 832, 8}},
		{{3, 576, 256}, {9, 832, 8}},
	};
	uint8_t saved[840], out[840];
	struct err err;

	fill(saved, sizeof(saved), 0x207);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_fails(arch_convert_xstate(saved, sizeof(saved), bad[i], 2, narrow, 2, out,
						 sizeof(out), &err),
			     ERR_UNSUPPORTED, &err);
	assert_fails(arch_convert_xstate(saved, 100, narrow, 2, narrow, 2, out, sizeof(out), &err),
		     ERR_CORRUPT, &err);
	fill(saved, sizeof(saved), 1ull << 60);
	assert_fails(arch_convert_xstate(saved, sizeof(saved), narrow, 2, narrow, 2, out, sizeof(out), &err),
		     ERR_UNSUPPORTED, &err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_levels),	cmocka_unit_test(test_beyond),
		cmocka_unit_test(test_other_cpu), cmocka_unit_test(test_layouts),
		cmocka_unit_test(test_hostile_layouts),
	};

	return cmocka_run_group_tests_name("CPU", tests, NULL, NULL);
}
