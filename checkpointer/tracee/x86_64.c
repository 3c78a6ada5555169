#include "checkpointer/tracee/arch.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>

#ifndef __x86_64__
#error "this file describes x86-64"
#endif

/* Kernel-internal results of interrupted calls (include/linux/errno.h), visible to tracers only. */
#define ERESTARTSYS           512
#define ERESTARTNOINTR        513
#define ERESTARTNOHAND        514
#define ERESTART_RESTARTBLOCK 516

#define SYSCALL_INSN_LEN 2
#define XSTATE_BV_OFFSET 512 /* Intel SDM vol. 1, 13.4.2 */

/* Calls that signal(7) names as failing with EINTR after a mere stop, and that can be made again. */
static const long stop_sensitive_calls[] = {
	SYS_epoll_wait,   SYS_epoll_pwait,   SYS_epoll_pwait2, SYS_semop,      SYS_semtimedop,
	SYS_rt_sigtimedwait, SYS_io_getevents, SYS_io_pgetevents, SYS_recvfrom, SYS_recvmsg,
	SYS_recvmmsg,     SYS_accept,        SYS_accept4,      SYS_sendto,     SYS_sendmsg,
};

static bool is_stop_sensitive(long nr)
{
	for (size_t i = 0; i < sizeof(stop_sensitive_calls) / sizeof(stop_sensitive_calls[0]); i++)
		if (stop_sensitive_calls[i] == nr)
			return true;
	return false;
}

enum arch_restart arch_restart_kind(const struct arch_regs *regs)
{
	if ((long)regs->raw.orig_rax < 0)
		return ARCH_NOT_IN_CALL;
	switch (-(long)regs->raw.rax) {
	case ERESTARTSYS:
	case ERESTARTNOINTR:
	case ERESTARTNOHAND:
		return ARCH_RESTART_PLAIN;
	case ERESTART_RESTARTBLOCK:
		return ARCH_RESTART_BLOCK;
	case EINTR:
		return is_stop_sensitive((long)regs->raw.orig_rax) ? ARCH_INTERRUPTED
								   : ARCH_NOT_IN_CALL;
	default:
		return ARCH_NOT_IN_CALL;
	}
}

void arch_rewind(struct arch_regs *regs)
{
	regs->raw.rax = regs->raw.orig_rax;
	regs->raw.rip -= SYSCALL_INSN_LEN;
	regs->raw.orig_rax = (unsigned long long)-1;
}

void arch_unrewind_to_restart_block(struct arch_regs *regs)
{
	regs->raw.orig_rax = regs->raw.rax;
	regs->raw.rax = (unsigned long long)-ERESTART_RESTARTBLOCK;
	regs->raw.rip += SYSCALL_INSN_LEN;
}

uint64_t arch_ip(const struct arch_regs *regs)
{
	return regs->raw.rip;
}

void arch_set_ip(struct arch_regs *regs, uint64_t ip)
{
	regs->raw.rip = ip;
}

uint64_t arch_sp(const struct arch_regs *regs)
{
	return regs->raw.rsp;
}

long arch_call_nr(const struct arch_regs *regs)
{
	return (long)regs->raw.rax;
}

uint64_t arch_call_arg(const struct arch_regs *regs, unsigned n)
{
	switch (n) {
	case 0:
		return regs->raw.rdi;
	case 1:
		return regs->raw.rsi;
	case 2:
		return regs->raw.rdx;
	case 3:
		return regs->raw.r10;
	case 4:
		return regs->raw.r8;
	default:
		return regs->raw.r9;
	}
}

void arch_set_call(struct arch_regs *regs, uint64_t insn, long nr, const uint64_t arg[6])
{
	regs->raw.rip = insn;
	regs->raw.rax = (unsigned long long)nr;
	regs->raw.orig_rax = (unsigned long long)-1;
	regs->raw.rdi = arg[0];
	regs->raw.rsi = arg[1];
	regs->raw.rdx = arg[2];
	regs->raw.r10 = arg[3];
	regs->raw.r8 = arg[4];
	regs->raw.r9 = arg[5];
}

void arch_set_returned(struct arch_regs *regs, long value)
{
	regs->raw.rip += SYSCALL_INSN_LEN;
	regs->raw.rax = (unsigned long long)value;
	regs->raw.orig_rax = (unsigned long long)-1;
}

long arch_return_value(const struct arch_regs *regs)
{
	return (long)regs->raw.rax;
}

void arch_forget_call(struct arch_regs *regs)
{
	regs->raw.orig_rax = (unsigned long long)-1;
}

void arch_shorten_timeout(struct arch_regs *regs, uint64_t elapsed_ns)
{
	long nr = (long)regs->raw.orig_rax;
	int timeout = (int)regs->raw.r10;
	uint64_t elapsed_ms = elapsed_ns / 1000000;

	if ((nr != SYS_epoll_wait && nr != SYS_epoll_pwait) || timeout <= 0)
		return;
	regs->raw.r10 = elapsed_ms >= (uint64_t)timeout ? 0 : (uint64_t)timeout - elapsed_ms;
}

int arch_timeout_arg(const struct arch_regs *regs)
{
	switch ((long)regs->raw.orig_rax) {
	case SYS_rt_sigtimedwait:
		return 2;
	case SYS_semtimedop:
	case SYS_epoll_pwait2:
		return 3;
	case SYS_io_getevents:
	case SYS_io_pgetevents:
		return 4;
	default:
		return -1;
	}
}

void arch_set_call_arg(struct arch_regs *regs, unsigned n, uint64_t value)
{
	switch (n) {
	case 2:
		regs->raw.rdx = value;
		break;
	case 3:
		regs->raw.r10 = value;
		break;
	case 4:
		regs->raw.r8 = value;
		break;
	}
}

#define RED_ZONE 128 /* System V ABI, AMD64 supplement, 3.2.2 */

uint64_t arch_scratch(const struct arch_regs *regs, size_t len)
{
	return (regs->raw.rsp - RED_ZONE - len) & ~15ull;
}

long arch_guess_call_nr(const void *code, size_t len)
{
	const unsigned char *p = code;
	uint32_t nr;

	if (len < 7 || p[len - 2] != 0x0f || p[len - 1] != 0x05)
		return -1;
	/* The nearest `mov $imm32, %eax` in front of it. */
	for (size_t i = len - 7; i + 1 > 0; i--) {
		if (p[i] == 0xb8) {
			memcpy(&nr, p + i + 1, sizeof(nr));
			if (nr < 1024)
				return (long)nr;
		}
		if (i == 0)
			break;
	}
	return -1;
}

long arch_find_syscall_insn(const void *image, size_t len)
{
	const unsigned char *p = image;

	for (size_t i = 0; i + 1 < len; i++)
		if (p[i] == 0x0f && p[i + 1] == 0x05)
			return (long)i;
	return -1;
}

/*
 * The executor. No stack, no relocation. r15: next call, r14: calls left. The layout of a call is
 * struct remote_call. The second entry loads a tile configuration and clears a tile, so that the kernel
 * (arch/x86/kernel/traps.c, #NM on XFD) gives the thread the large state that AMX needs.
 */
__asm__(".pushsection .rodata\n"
	".globl arch_blob_start, arch_blob_end\n"
	".balign 64\n"
	"arch_blob_start:\n"
	"1:	test %r14, %r14\n"
	"	jz blob_batch_trap\n"
	"	mov 0(%r15), %rax\n"
	"	mov 8(%r15), %rdi\n"
	"	mov 16(%r15), %rsi\n"
	"	mov 24(%r15), %rdx\n"
	"	mov 32(%r15), %r10\n"
	"	mov 40(%r15), %r8\n"
	"	mov 48(%r15), %r9\n"
	"blob_syscall:\n"
	"	syscall\n"
	"	mov %rax, 56(%r15)\n"
	"	add $64, %r15\n"
	"	dec %r14\n"
	"	jmp 1b\n"
	"blob_batch_trap:\n"
	"	int3\n"
	"blob_touch:\n"
	"	ldtilecfg blob_tilecfg(%rip)\n"
	"	tilezero %tmm0\n"
	"	tilerelease\n"
	"blob_touch_trap:\n"
	"	int3\n"
	".balign 64\n"
	"blob_tilecfg:\n"
	"	.byte 1, 0\n"         /* palette 1, start row 0 */
	"	.fill 14, 1, 0\n"
	"	.short 4\n"           /* tile 0: 4 bytes a row */
	"	.fill 30, 1, 0\n"
	"	.byte 1\n"            /* tile 0: 1 row */
	"	.fill 15, 1, 0\n"
	"arch_blob_end:\n"
	".popsection\n");

extern const char blob_syscall[], blob_batch_trap[], blob_touch[], blob_touch_trap[];

uint64_t arch_blob_syscall_offset(void)
{
	return (uint64_t)(blob_syscall - arch_blob_start);
}

bool arch_at_blob_trap(const struct arch_regs *regs, uint64_t blob)
{
	uint64_t at = regs->raw.rip - blob;

	return at == (uint64_t)(blob_batch_trap - arch_blob_start) + 1 ||
	       at == (uint64_t)(blob_touch_trap - arch_blob_start) + 1;
}

#define EFLAGS_TF 0x100u
#define EFLAGS_DF 0x400u

static void prepare_entry(struct arch_regs *regs, uint64_t entry)
{
	regs->raw.rip = entry;
	regs->raw.rax = 0;
	regs->raw.orig_rax = (unsigned long long)-1;
	regs->raw.eflags &= ~(unsigned long long)(EFLAGS_TF | EFLAGS_DF);
}

void arch_prepare_batch(struct arch_regs *regs, uint64_t blob, uint64_t calls, uint64_t n)
{
	prepare_entry(regs, blob);
	regs->raw.r15 = calls;
	regs->raw.r14 = n;
}

void arch_prepare_touch_xstate(struct arch_regs *regs, uint64_t blob)
{
	prepare_entry(regs, blob + (uint64_t)(blob_touch - arch_blob_start));
}

/* ---- the CPU ------------------------------------------------------------------------------- */

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

uint64_t arch_xsave_size(void)
{
	uint32_t a, b, c, d;

	return __get_cpuid_count(0xd, 0, &a, &b, &c, &d) ? b : 512;
}

uint64_t arch_xstate_in_use(const void *xstate, size_t len)
{
	uint64_t bits = 0;

	if (len >= XSTATE_BV_OFFSET + sizeof(bits))
		memcpy(&bits, (const char *)xstate + XSTATE_BV_OFFSET, sizeof(bits));
	return bits;
}

struct cpu_feature {
	enum cpuid_word word;
	unsigned bit;
	const char *name;
};

/* What user code can execute and may have decided on at its start (Intel SDM vol. 2, CPUID). */
static const struct cpu_feature user_features[] = {
	{W_1_ECX, 0, "SSE3"},         {W_1_ECX, 1, "PCLMULQDQ"},    {W_1_ECX, 9, "SSSE3"},
	{W_1_ECX, 12, "FMA"},         {W_1_ECX, 13, "CMPXCHG16B"},  {W_1_ECX, 19, "SSE4.1"},
	{W_1_ECX, 20, "SSE4.2"},      {W_1_ECX, 22, "MOVBE"},       {W_1_ECX, 23, "POPCNT"},
	{W_1_ECX, 25, "AES"},         {W_1_ECX, 27, "XSAVE"},       {W_1_ECX, 28, "AVX"},
	{W_1_ECX, 29, "F16C"},        {W_1_ECX, 30, "RDRAND"},      {W_7_EBX, 0, "FSGSBASE"},
	{W_7_EBX, 3, "BMI1"},         {W_7_EBX, 4, "HLE"},          {W_7_EBX, 5, "AVX2"},
	{W_7_EBX, 8, "BMI2"},         {W_7_EBX, 11, "RTM"},         {W_7_EBX, 16, "AVX-512F"},
	{W_7_EBX, 17, "AVX-512DQ"},   {W_7_EBX, 18, "RDSEED"},      {W_7_EBX, 19, "ADX"},
	{W_7_EBX, 21, "AVX-512IFMA"}, {W_7_EBX, 23, "CLFLUSHOPT"},  {W_7_EBX, 24, "CLWB"},
	{W_7_EBX, 28, "AVX-512CD"},   {W_7_EBX, 29, "SHA"},         {W_7_EBX, 30, "AVX-512BW"},
	{W_7_EBX, 31, "AVX-512VL"},   {W_7_ECX, 1, "AVX-512VBMI"},  {W_7_ECX, 3, "PKU"},
	{W_7_ECX, 6, "AVX-512VBMI2"}, {W_7_ECX, 8, "GFNI"},         {W_7_ECX, 9, "VAES"},
	{W_7_ECX, 10, "VPCLMULQDQ"},  {W_7_ECX, 11, "AVX-512VNNI"}, {W_7_ECX, 12, "AVX-512BITALG"},
	{W_7_ECX, 14, "AVX-512VPOPCNTDQ"}, {W_7_ECX, 22, "RDPID"},  {W_7_ECX, 27, "MOVDIRI"},
	{W_7_ECX, 28, "MOVDIR64B"},   {W_7_EDX, 22, "AMX-BF16"},    {W_7_EDX, 23, "AVX-512FP16"},
	{W_7_EDX, 24, "AMX-TILE"},    {W_7_EDX, 25, "AMX-INT8"},    {W_7_1_EAX, 4, "AVX-VNNI"},
	{W_7_1_EAX, 5, "AVX-512BF16"}, {W_D_1_EAX, 0, "XSAVEOPT"},  {W_D_1_EAX, 1, "XSAVEC"},
	{W_81_ECX, 5, "LZCNT"},       {W_81_ECX, 6, "SSE4a"},       {W_81_ECX, 11, "XOP"},
	{W_81_ECX, 16, "FMA4"},       {W_81_ECX, 21, "TBM"},        {W_81_EDX, 27, "RDTSCP"},
};

int arch_check_cpu(const uint32_t *saved_cpuid, size_t n_words, uint64_t saved_xcr0, struct err *err)
{
	uint32_t mine[N_CPUID_WORDS];
	uint64_t missing = saved_xcr0 & ~arch_xcr0();

	arch_cpuid_words(mine, N_CPUID_WORDS);
	for (size_t i = 0; i < sizeof(user_features) / sizeof(user_features[0]); i++) {
		const struct cpu_feature *f = &user_features[i];

		if (f->word >= n_words || !(saved_cpuid[f->word] >> f->bit & 1))
			continue;
		if (!(mine[f->word] >> f->bit & 1))
			return err_set(err, ERR_UNSUPPORTED,
				       "the job was started on a CPU with %s, which this CPU lacks "
				       "(recover it on a machine that has it)",
				       f->name);
	}
	if (missing)
		return err_set(err, ERR_UNSUPPORTED,
			       "the snapshot has XSAVE components 0x%llx that this machine does not enable",
			       (unsigned long long)missing);
	return 0;
}
