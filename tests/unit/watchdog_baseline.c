/*
 * What a job is told so that it keeps to a level.
 */
#include "unit.h"

#include <string.h>

#include "watchdog/baseline.h"

/* As in tracee_cpu.c. */
static const uint32_t haswell[9] = {0x7ffafbff, 0xbfebfbff, 0x000027ab, 0, 0, 0, 1, 0x21, 1u << 27};
static const uint32_t skylake_x[9] = {0x7ffefbff, 0xbfebfbff, 0xd39ffffb, 8, 0, 0, 0xf, 0x121, 1u << 27};

static const char *nothing(const char *name)
{
	return NULL;
}

static const char *some(const char *name)
{
	return strcmp(name, "GLIBC_TUNABLES") == 0     ? "glibc.malloc.check=1"
	       : strcmp(name, "OPENBLAS_CORETYPE") == 0 ? "Zen"
							: NULL;
}

static const char *value(char **list, const char *name)
{
	for (; *list; list++)
		if (strncmp(*list, name, strlen(name)) == 0 && (*list)[strlen(name)] == '=')
			return *list + strlen(name) + 1;
	return NULL;
}

static void test_beyond_v3(void **state)
{
	const char *tunables;
	struct err err;
	char **list;

	assert_int_equal(baseline_environment(3, skylake_x, 9, nothing, &list, &err), 0);
	tunables = value(list, "GLIBC_TUNABLES");
	assert_non_null(tunables);
	assert_ptr_equal(strstr(tunables, "glibc.cpu.hwcaps=-"), tunables);
	assert_non_null(strstr(tunables, "-AVX512F,"));
	assert_null(strstr(tunables, "AVX2"));
	assert_string_equal(value(list, "OPENBLAS_CORETYPE"), "Haswell");
	assert_string_equal(value(list, "MKL_ENABLE_INSTRUCTIONS"), "AVX2");
	assert_non_null(strstr(value(list, "NPY_DISABLE_CPU_FEATURES"), "AVX512_SKX"));
	assert_non_null(strstr(value(list, "GODEBUG"), "cpu.avx512f=off"));
	assert_non_null(value(list, "OPENSSL_ia32cap"));
	baseline_free(list);
}

static void test_beyond_v2(void **state)
{
	struct err err;
	char **list;

	assert_int_equal(baseline_environment(2, haswell, 9, some, &list, &err), 0);
	assert_ptr_equal(strstr(value(list, "GLIBC_TUNABLES"), "glibc.malloc.check=1:glibc.cpu.hwcaps="),
			 value(list, "GLIBC_TUNABLES"));
	assert_non_null(strstr(value(list, "GLIBC_TUNABLES"), "-AVX2"));
	assert_null(strstr(value(list, "GLIBC_TUNABLES"), "SSE4_2"));
	assert_null(value(list, "OPENBLAS_CORETYPE")); /* the user's own */
	baseline_free(list);
}

/* Nobody is told to use what this CPU lacks. */
static void test_nothing_beyond(void **state)
{
	struct err err;
	char **list;

	assert_int_equal(baseline_environment(3, haswell, 9, nothing, &list, &err), 0);
	assert_null(list[0]);
	baseline_free(list);
	assert_int_equal(baseline_environment(4, haswell, 9, nothing, &list, &err), 0);
	assert_null(value(list, "OPENBLAS_CORETYPE"));
	baseline_free(list);
	assert_fails(baseline_environment(5, haswell, 9, nothing, &list, &err), ERR_INVALID, &err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_beyond_v3),
		cmocka_unit_test(test_beyond_v2),
		cmocka_unit_test(test_nothing_beyond),
	};

	return cmocka_run_group_tests_name("baseline", tests, NULL, NULL);
}
