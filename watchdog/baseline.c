#include "watchdog/baseline.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpointer/tracee/arch.h"
#include "store/base/cleanup.h"

#define LIST_ROOM 2048
#define N_LEVELS  3 /* 2, 3, 4 */
#define MOST	  32

/* What each understands as "no more than this level". Intel's and AMD's own names stand for levels.
 */
static const struct {
	const char *name, *values[N_LEVELS]; /* NULL: it has no word for that level */
} switches[] = {
	{"OPENBLAS_CORETYPE", {"Nehalem", "Haswell", "SkylakeX"}},
	{"MKL_ENABLE_INSTRUCTIONS", {"SSE4_2", "AVX2", "AVX512"}},
	{"BLIS_ARCH_TYPE", {"generic", "haswell", "skx"}},
	{"ONEDNN_MAX_CPU_ISA", {"SSE41", "AVX2", "AVX512_CORE"}},
	{"DNNL_MAX_CPU_ISA", {"SSE41", "AVX2", "AVX512_CORE"}},
	{"ATEN_CPU_CAPABILITY", {"default", "avx2", "avx512"}},
	{"ARROW_USER_SIMD_LEVEL", {"SSE4_2", "AVX2", "AVX512"}},
	{"JAVA_TOOL_OPTIONS", {"-XX:UseAVX=0", "-XX:UseAVX=2", "-XX:UseAVX=3"}},
};

/* NumPy names groups. */
static const struct {
	const char *feature, *numpy;
} numpy_names[] = {
	{"AVX", "AVX"},
	{"XOP", "XOP"},
	{"FMA4", "FMA4"},
	{"F16C", "F16C"},
	{"FMA", "FMA3"},
	{"AVX2", "AVX2"},
	{"AVX-512F", "AVX512F"},
	{"AVX-512CD", "AVX512CD"},
	{"AVX-512BW", "AVX512_SKX"},
	{"AVX-512VNNI", "AVX512_CLX"},
	{"AVX-512VBMI", "AVX512_CNL"},
	{"AVX-512VBMI2", "AVX512_ICL"},
	{"AVX-512FP16", "AVX512_SPR"},
};

/* What is beyond the level, as each of them writes it. */
struct beyond {
	char glibc[LIST_ROOM], numpy[LIST_ROOM], go[LIST_ROOM];
	uint64_t openssl[2]; /* OPENSSL_ia32cap(3): leaf 1 edx and ecx, leaf 7 ebx and ecx */
	bool any;
};

static void append(char list[LIST_ROOM], const char *separator, const char *before,
		   const char *name, const char *after)
{
	size_t len = strlen(list);

	snprintf(list + len, LIST_ROOM - len, "%s%s%s%s", len ? separator : "", before, name,
		 after);
}

/* "SSE4.1" is SSE4_1, "AVX-512F" AVX512F, "AVX-VNNI" AVX_VNNI to glibc
 * (sysdeps/x86/bits/platform/x86.h). */
static void glibc_name(const char *name, char buf[32])
{
	size_t n = 0;

	for (; *name && n < 31; name++)
		if (*name != '-' || name[1] != '5')
			buf[n++] = *name == '-' || *name == '.' ? '_' : *name;
	buf[n] = '\0';
}

/* Go's internal/cpu: lower case without punctuation. */
static void go_name(const char *name, char buf[32])
{
	size_t n = 0;

	for (; *name && n < 31; name++)
		if (*name != '-' && *name != '.')
			buf[n++] = (char)(*name >= 'A' && *name <= 'Z' ? *name - 'A' + 'a' : *name);
	buf[n] = '\0';
}

static void add_feature(struct beyond *b, const struct arch_feature *f)
{
	char name[32];

	b->any = true;
	glibc_name(f->name, name);
	append(b->glibc, ",", "-", name, "");
	go_name(f->name, name);
	append(b->go, ",", "cpu.", name, "=off");
	for (size_t i = 0; i < sizeof(numpy_names) / sizeof(numpy_names[0]); i++)
		if (strcmp(numpy_names[i].feature, f->name) == 0)
			append(b->numpy, " ", "", numpy_names[i].numpy, "");
	if (f->reg == ARCH_LEAF_1_ECX)
		b->openssl[0] |= 1ull << (32 + f->bit);
	else if (f->reg == ARCH_LEAF_7_EBX)
		b->openssl[1] |= 1ull << f->bit;
	else if (f->reg == ARCH_LEAF_7_ECX)
		b->openssl[1] |= 1ull << (32 + f->bit);
}

/* ---- variables ----------------------------------------------------------------------------- */

struct variables {
	char **list;
	size_t n;
	baseline_lookup *lookup;
};

static int set(struct variables *v, const char *name, const char *value, struct err *err)
{
	if (v->n == MOST || asprintf(&v->list[v->n], "%s=%s", name, value) < 0) {
		v->list[v->n] = NULL;
		return err_sys(err, "the job's environment");
	}
	v->n++;
	return 0;
}

static int set_default(struct variables *v, const char *name, const char *value, struct err *err)
{
	return *value && !v->lookup(name) ? set(v, name, value, err) : 0;
}

/* Behind what there is already. */
static int set_added(struct variables *v, const char *name, const char *separator,
		     const char *value, struct err *err)
{
	const char *old = v->lookup(name);
	cleanup_free char *both = NULL;

	if (!*value)
		return 0;
	if (!old || !*old)
		return set(v, name, value, err);
	if (asprintf(&both, "%s%s%s", old, separator, value) < 0)
		return err_sys(err, "the job's environment");
	return set(v, name, both, err);
}

static int set_tunables(struct variables *v, const struct beyond *b, struct err *err)
{
	cleanup_free char *value = NULL;

	if (!*b->glibc)
		return 0;
	if (asprintf(&value, "glibc.cpu.hwcaps=%s", b->glibc) < 0)
		return err_sys(err, "the job's environment");
	return set_added(v, "GLIBC_TUNABLES", ":", value, err);
}

static int set_openssl(struct variables *v, const struct beyond *b, struct err *err)
{
	char value[64];

	snprintf(value, sizeof(value), "~0x%" PRIx64 ":~0x%" PRIx64, b->openssl[0], b->openssl[1]);
	return b->openssl[0] || b->openssl[1] ? set_default(v, "OPENSSL_ia32cap", value, err) : 0;
}

/* The names stand for what this CPU must have itself: nobody is told to use more. */
static int set_switches(struct variables *v, unsigned level, struct err *err)
{
	for (size_t i = 0; i < sizeof(switches) / sizeof(switches[0]); i++) {
		const char *name = switches[i].name, *value = switches[i].values[level - 2];
		int result = strcmp(name, "JAVA_TOOL_OPTIONS") == 0
				     ? set_added(v, name, " ", value, err)
				     : set_default(v, name, value, err);

		if (result < 0)
			return -1;
	}
	return 0;
}

static int set_all(struct variables *v, unsigned level, const uint32_t *words, size_t n,
		   struct err *err)
{
	struct beyond b = {0};
	struct arch_feature f;
	size_t at = 0;

	while (arch_feature_beyond(words, n, level, &at, &f))
		add_feature(&b, &f);
	if (!b.any)
		return 0;
	if (set_tunables(v, &b, err) < 0 || set_openssl(v, &b, err) < 0 ||
	    set_default(v, "NPY_DISABLE_CPU_FEATURES", b.numpy, err) < 0 ||
	    set_added(v, "GODEBUG", ",", b.go, err) < 0)
		return -1;
	return arch_cpu_level(words, n) >= level ? set_switches(v, level, err) : 0;
}

int baseline_environment(unsigned level, const uint32_t *words, size_t n, baseline_lookup *lookup,
			 char ***ret, struct err *err)
{
	struct variables v = {.list = calloc(MOST + 1, sizeof(char *)), .lookup = lookup};

	if (!v.list)
		return err_sys(err, "the job's environment");
	if (level < 2 || level > ARCH_LEVEL_MOST) {
		free(v.list);
		return err_set(err, ERR_INVALID, "there is no level %u to keep a job to", level);
	}
	if (set_all(&v, level, words, n, err) < 0) {
		baseline_free(v.list);
		return -1;
	}
	*ret = v.list;
	return 0;
}

void baseline_free(char **environment)
{
	for (char **at = environment; at && *at; at++)
		free(*at);
	free(environment);
}

static const char *own_value(const char *name)
{
	return getenv(name);
}

int baseline_apply(unsigned level, struct err *err)
{
	uint32_t words[16];
	size_t n = arch_cpuid_words(words, 16);
	char **list;
	int result = 0;

	if (baseline_environment(level, words, n, own_value, &list, err) < 0)
		return -1;
	for (char **at = list; *at && result == 0; at++) {
		char *value = strchr(*at, '=');

		*value = '\0';
		result = setenv(*at, value + 1, 1);
	}
	baseline_free(list);
	return result < 0 ? err_sys(err, "the job's environment") : 0;
}
