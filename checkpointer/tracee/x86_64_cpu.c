/*
 * The CPU: what it has, what a job may have come to depend on, and how it lays its registers out.
 */
#include "checkpointer/tracee/arch.h"

#include <cpuid.h>
#include <string.h>

#ifndef __x86_64__
#error "this file describes x86-64"
#endif

/* Intel SDM vol. 1, 13.4: the legacy region, the header with its bit vectors, then the components. */
#define LEGACY_SIZE	  512u
#define XSTATE_BV_OFFSET  512u
#define XSTATE_HEADER_END 576u
#define FIRST_EXTENDED	  2u /* x87 and SSE are in the legacy region */
#define PKRU		  9u /* rights of protection keys: without keys, the kernel's default */

enum cpuid_word {
	W_1_ECX,
	W_1_EDX,
	W_7_EBX,
	W_7_ECX,
	W_7_EDX,
	W_7_1_EAX,
	W_D_1_EAX,
	W_81_ECX,
	W_81_EDX,
	N_CPUID_WORDS,
};

size_t arch_cpuid_words(uint32_t *ret, size_t room)
{
	uint32_t words[N_CPUID_WORDS] = {0};
	uint32_t a, b, c, d;

	if (__get_cpuid_count(1, 0, &a, &b, &c, &d)) {
		words[W_1_ECX] = c;
		words[W_1_EDX] = d;
	}
	if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
		uint32_t subleaves = a;

		words[W_7_EBX] = b;
		words[W_7_ECX] = c;
		words[W_7_EDX] = d;
		if (subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d))
			words[W_7_1_EAX] = a;
	}
	if (__get_cpuid_count(0xd, 1, &a, &b, &c, &d))
		words[W_D_1_EAX] = a;
	if (__get_cpuid_count(0x80000001, 0, &a, &b, &c, &d)) {
		words[W_81_ECX] = c;
		words[W_81_EDX] = d;
	}
	if (room > N_CPUID_WORDS)
		room = N_CPUID_WORDS;
	memcpy(ret, words, room * sizeof(*ret));
	return room;
}

uint64_t arch_xcr0(void)
{
	uint32_t a, b, c, d, lo, hi;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return 3; /* x87 and SSE */
	__asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (uint64_t)hi << 32 | lo;
}

size_t arch_cpu_name(char *buf, size_t len)
{
	uint32_t text[13] = {0};
	const char *at = (const char *)text;

	for (unsigned i = 0; i < 3; i++)
		if (!__get_cpuid(0x80000002 + i, &text[4 * i], &text[4 * i + 1], &text[4 * i + 2],
				 &text[4 * i + 3]))
			text[0] = 0;
	at += strspn(at, " ");
	if (len == 0)
		return 0;
	strncpy(buf, at, len - 1);
	buf[len - 1] = '\0';
	return strlen(buf);
}

uint64_t arch_xsave_size(void)
{
	uint32_t a, b, c, d;

	return __get_cpuid_count(0xd, 0, &a, &b, &c, &d) ? b : LEGACY_SIZE;
}

uint64_t arch_xstate_in_use(const void *xstate, size_t len)
{
	uint64_t bits = 0;

	if (len >= XSTATE_BV_OFFSET + sizeof(bits))
		memcpy(&bits, (const char *)xstate + XSTATE_BV_OFFSET, sizeof(bits));
	return bits;
}

/* ---- features and levels ------------------------------------------------------------------- */

struct cpu_feature {
	enum cpuid_word word;
	unsigned bit;
	const char *name;
	/* From which level of the x86-64 psABI on every CPU has it, 0: one may lack it at any. */
	unsigned level;
	bool defines; /* it is in the psABI's definition of that level */
};

#define IN(level)  (level), true
#define BY(level)  (level), false
#define ANY_LEVEL  0, false

/* What user code can execute and may have decided on at its start (Intel SDM vol. 2, CPUID). */
static const struct cpu_feature user_features[] = {
	{W_1_ECX, 0, "SSE3", IN(2)},         {W_1_ECX, 1, "PCLMULQDQ", BY(3)},
	{W_1_ECX, 9, "SSSE3", IN(2)},        {W_1_ECX, 12, "FMA", IN(3)},
	{W_1_ECX, 13, "CMPXCHG16B", IN(2)},  {W_1_ECX, 19, "SSE4.1", IN(2)},
	{W_1_ECX, 20, "SSE4.2", IN(2)},      {W_1_ECX, 22, "MOVBE", IN(3)},
	{W_1_ECX, 23, "POPCNT", IN(2)},      {W_1_ECX, 25, "AES", BY(3)},
	{W_1_ECX, 26, "XSAVE", BY(3)},       {W_1_ECX, 27, "OSXSAVE", IN(3)},
	{W_1_ECX, 28, "AVX", IN(3)},         {W_1_ECX, 29, "F16C", IN(3)},
	{W_1_ECX, 30, "RDRAND", BY(3)},      {W_7_EBX, 0, "FSGSBASE", BY(3)},
	{W_7_EBX, 3, "BMI1", IN(3)},         {W_7_EBX, 4, "HLE", ANY_LEVEL},
	{W_7_EBX, 5, "AVX2", IN(3)},         {W_7_EBX, 8, "BMI2", IN(3)},
	{W_7_EBX, 11, "RTM", ANY_LEVEL},     {W_7_EBX, 16, "AVX-512F", IN(4)},
	{W_7_EBX, 17, "AVX-512DQ", IN(4)},   {W_7_EBX, 18, "RDSEED", BY(4)},
	{W_7_EBX, 19, "ADX", BY(4)},         {W_7_EBX, 21, "AVX-512IFMA", ANY_LEVEL},
	{W_7_EBX, 23, "CLFLUSHOPT", BY(4)},  {W_7_EBX, 24, "CLWB", BY(4)},
	{W_7_EBX, 28, "AVX-512CD", IN(4)},   {W_7_EBX, 29, "SHA", ANY_LEVEL},
	{W_7_EBX, 30, "AVX-512BW", IN(4)},   {W_7_EBX, 31, "AVX-512VL", IN(4)},
	{W_7_ECX, 1, "AVX-512VBMI", ANY_LEVEL}, {W_7_ECX, 3, "PKU", ANY_LEVEL},
	{W_7_ECX, 6, "AVX-512VBMI2", ANY_LEVEL}, {W_7_ECX, 8, "GFNI", ANY_LEVEL},
	{W_7_ECX, 9, "VAES", ANY_LEVEL},     {W_7_ECX, 10, "VPCLMULQDQ", ANY_LEVEL},
	{W_7_ECX, 11, "AVX-512VNNI", ANY_LEVEL}, {W_7_ECX, 12, "AVX-512BITALG", ANY_LEVEL},
	{W_7_ECX, 14, "AVX-512VPOPCNTDQ", ANY_LEVEL}, {W_7_ECX, 22, "RDPID", ANY_LEVEL},
	{W_7_ECX, 27, "MOVDIRI", ANY_LEVEL}, {W_7_ECX, 28, "MOVDIR64B", ANY_LEVEL},
	{W_7_EDX, 22, "AMX-BF16", ANY_LEVEL}, {W_7_EDX, 23, "AVX-512FP16", ANY_LEVEL},
	{W_7_EDX, 24, "AMX-TILE", ANY_LEVEL}, {W_7_EDX, 25, "AMX-INT8", ANY_LEVEL},
	{W_7_1_EAX, 4, "AVX-VNNI", ANY_LEVEL}, {W_7_1_EAX, 5, "AVX-512BF16", ANY_LEVEL},
	{W_D_1_EAX, 0, "XSAVEOPT", BY(3)},   {W_D_1_EAX, 1, "XSAVEC", BY(4)},
	{W_81_ECX, 0, "LAHF", IN(2)},        {W_81_ECX, 5, "LZCNT", IN(3)},
	{W_81_ECX, 6, "SSE4a", ANY_LEVEL},   {W_81_ECX, 11, "XOP", ANY_LEVEL},
	{W_81_ECX, 16, "FMA4", ANY_LEVEL},   {W_81_ECX, 21, "TBM", ANY_LEVEL},
	{W_81_EDX, 27, "RDTSCP", BY(2)},
};

#define N_FEATURES (sizeof(user_features) / sizeof(user_features[0]))

static bool has(const uint32_t *words, size_t n, const struct cpu_feature *f)
{
	return f->word < n && words[f->word] >> f->bit & 1;
}

unsigned arch_cpu_level(const uint32_t *words, size_t n)
{
	unsigned level = ARCH_LEVEL_MOST;

	for (size_t i = 0; i < N_FEATURES; i++) {
		const struct cpu_feature *f = &user_features[i];

		if (f->defines && f->level <= level && !has(words, n, f))
			level = f->level - 1;
	}
	return level;
}

static bool is_within(const struct cpu_feature *f, unsigned level)
{
	return level == 0 || (f->level && f->level <= level);
}

bool arch_feature_beyond(const uint32_t *words, size_t n, unsigned level, size_t *at,
			 struct arch_feature *ret)
{
	while (*at < N_FEATURES) {
		const struct cpu_feature *f = &user_features[(*at)++];

		if (!has(words, n, f) || is_within(f, level))
			continue;
		*ret = (struct arch_feature){.name = f->name, .bit = f->bit};
		if (f->word == W_1_ECX || f->word == W_7_EBX || f->word == W_7_ECX)
			ret->reg = f->word == W_1_ECX	? ARCH_LEAF_1_ECX
				   : f->word == W_7_EBX ? ARCH_LEAF_7_EBX
							: ARCH_LEAF_7_ECX;
		return true;
	}
	return false;
}

/* ---- another machine ----------------------------------------------------------------------- */

static const char *component_name(unsigned number)
{
	static const char *const names[] = {
		"x87",	   "SSE",	"AVX",	   "MPX bounds", "MPX bounds", "AVX-512 mask", "AVX-512",
		"AVX-512", "PT",	"PKRU",	   "PASID",	 "CET",	       "CET",	       "HDC",
		"UINTR",   "LBR",	"HWP",	   "AMX tile",	 "AMX tile",   "APX",
	};

	return number < sizeof(names) / sizeof(names[0]) ? names[number] : "unknown";
}

static int refuse_components(uint64_t missing, const char *what, struct err *err)
{
	return err_set(err, ERR_UNSUPPORTED, "%s %s registers, which this CPU lacks (recover it on a machine "
					     "that has them)",
		       what, component_name((unsigned)__builtin_ctzll(missing)));
}

int arch_check_cpu(const uint32_t *saved_cpuid, size_t n_words, uint64_t saved_xcr0,
		   unsigned baseline, struct err *err)
{
	uint32_t mine[N_CPUID_WORDS];
	uint64_t missing = saved_xcr0 & ~arch_xcr0();

	arch_cpuid_words(mine, N_CPUID_WORDS);
	for (size_t i = 0; i < N_FEATURES; i++) {
		const struct cpu_feature *f = &user_features[i];

		if (has(saved_cpuid, n_words, f) && is_within(f, baseline) &&
		    !has(mine, N_CPUID_WORDS, f))
			return err_set(err, ERR_UNSUPPORTED,
				       "the job was started on a CPU with %s, which this CPU lacks "
				       "(recover it on a machine that has it; --cpu-baseline at the "
				       "launch keeps jobs to less)",
				       f->name);
	}
	if (missing && !baseline)
		return refuse_components(missing, "the job was started on a CPU with", err);
	return 0;
}

int arch_check_xstate(const void *xstate, size_t len, struct err *err)
{
	uint64_t missing = arch_xstate_in_use(xstate, len) & ~arch_xcr0() & ~(1ull << PKRU);

	return missing ? refuse_components(missing, "uses", err) : 0;
}

bool arch_has_protection_keys(void)
{
	return arch_xcr0() >> PKRU & 1;
}

size_t arch_xstate_layout(struct arch_component *ret, size_t room)
{
	uint64_t enabled = arch_xcr0();
	uint32_t a, b, c, d;
	size_t n = 0;

	for (unsigned i = FIRST_EXTENDED; i < 63 && n < room; i++)
		if (enabled >> i & 1 && __get_cpuid_count(0xd, i, &a, &b, &c, &d) && a)
			ret[n++] = (struct arch_component){.number = i, .size = a, .offset = b};
	return n;
}

static const struct arch_component *find(const struct arch_component *list, size_t n, unsigned number)
{
	for (size_t i = 0; i < n; i++)
		if (list[i].number == number)
			return &list[i];
	return NULL;
}

static bool lies_within(const struct arch_component *c, size_t len)
{
	return c->offset >= XSTATE_HEADER_END && c->offset <= len && c->size <= len - c->offset;
}

int arch_convert_xstate(const void *saved, size_t saved_len, const struct arch_component *from,
			size_t n_from, const struct arch_component *to, size_t n_to, void *out,
			size_t len, struct err *err)
{
	uint64_t in_use = arch_xstate_in_use(saved, saved_len), kept = in_use & 3;

	if (len < XSTATE_HEADER_END || saved_len < XSTATE_HEADER_END)
		return err_set(err, ERR_CORRUPT, "extended registers of %zu bytes", saved_len);
	memset(out, 0, len);
	memcpy(out, saved, LEGACY_SIZE);
	for (unsigned i = FIRST_EXTENDED; i < 64; i++) {
		const struct arch_component *a = find(from, n_from, i), *b = find(to, n_to, i);

		if (!(in_use >> i & 1) || (i == PKRU && !b))
			continue;
		if (!a || !b || a->size != b->size || !lies_within(a, saved_len) || !lies_within(b, len))
			return err_set(err, ERR_UNSUPPORTED,
				       "the %s registers have another layout on this CPU",
				       component_name(i));
		memcpy((char *)out + b->offset, (const char *)saved + a->offset, a->size);
		kept |= 1ull << i;
	}
	memcpy((char *)out + XSTATE_BV_OFFSET, &kept, sizeof(kept));
	return 0;
}
