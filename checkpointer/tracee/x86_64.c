#include "checkpointer/tracee/arch.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>

#ifndef __x86_64__
#error "this file describes x86-64"
#endif

#define SYSCALL_INSN_LEN 2

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
	case ARCH_ERESTARTSYS:
	case ARCH_ERESTARTNOINTR:
	case ARCH_ERESTARTNOHAND:
		return ARCH_RESTART_PLAIN;
	case ARCH_ERESTART_RESTARTBLOCK:
		return ARCH_RESTART_BLOCK;
	case EINTR:
		return is_stop_sensitive((long)regs->raw.orig_rax) ? ARCH_INTERRUPTED
								   : ARCH_NOT_IN_CALL;
	default:
		return ARCH_NOT_IN_CALL;
	}
}

enum arch_restart_code arch_restart_code(const struct arch_regs *regs)
{
	return (enum arch_restart_code)-(long)regs->raw.rax;
}

void arch_make_again(struct arch_regs *regs)
{
	regs->raw.rax = (unsigned long long)-(long long)ARCH_ERESTARTNOHAND;
}

void arch_rewind(struct arch_regs *regs)
{
	regs->raw.rax = regs->raw.orig_rax;
	regs->raw.rip -= SYSCALL_INSN_LEN;
	regs->raw.orig_rax = (unsigned long long)-1;
}

void arch_unrewind(struct arch_regs *regs, enum arch_restart_code code)
{
	regs->raw.orig_rax = regs->raw.rax;
	regs->raw.rax = (unsigned long long)-(long long)code;
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

uint64_t arch_syscall_len(void)
{
	return SYSCALL_INSN_LEN;
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
