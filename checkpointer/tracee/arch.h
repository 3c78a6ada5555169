/*
 * arch.h: what differs between CPU architectures. One implementation file each (x86_64.c); nothing
 * outside it names a register.
 */
#ifndef PAWL_CHECKPOINTER_TRACEE_ARCH_H
#define PAWL_CHECKPOINTER_TRACEE_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/user.h>

#include "store/base/err.h"

/* The NT_PRSTATUS register set (struct user_regs_struct on x86-64). Opaque elsewhere. */
struct arch_regs {
	struct user_regs_struct raw;
};

/* How the system call in which a thread was interrupted goes on. */
enum arch_restart {
	ARCH_NOT_IN_CALL,    /* in user code, or the call had already finished */
	ARCH_RESTART_PLAIN,  /* -ERESTARTSYS, -ERESTARTNOINTR, -ERESTARTNOHAND: execute it again */
	ARCH_RESTART_BLOCK,  /* -ERESTART_RESTARTBLOCK: a timed wait whose rest only the kernel knows */
	ARCH_INTERRUPTED,    /* -EINTR from a call that even a ptrace stop ends (signal(7): epoll_wait,
	                      * semop, sigtimedwait …): to be executed again unless a signal is due */
};

/* The kernel's own results of interrupted calls (include/linux/errno.h), which tracers alone see. They say what
 * happens when a handler runs before the call is made again: ERESTARTNOINTR makes it again all the same,
 * ERESTARTSYS if the handler has SA_RESTART, the others end it with EINTR. */
enum arch_restart_code {
	ARCH_ERESTARTSYS = 512,
	ARCH_ERESTARTNOINTR = 513,
	ARCH_ERESTARTNOHAND = 514,
	ARCH_ERESTART_RESTARTBLOCK = 516, /* goes on with restart_syscall(2), by the kernel's restart_block */
};

enum arch_restart arch_restart_kind(const struct arch_regs *regs);
/* Of ARCH_RESTART_PLAIN: by which of them. */
enum arch_restart_code arch_restart_code(const struct arch_regs *regs);
/* ARCH_INTERRUPTED becomes ARCH_RESTART_PLAIN by ERESTARTNOHAND: made again unless a handler runs first. */
void arch_make_again(struct arch_regs *regs);
/* Makes the registers execute the interrupted call again from its `syscall` instruction. */
void arch_rewind(struct arch_regs *regs);
/* The opposite: back into the interrupted call, which the kernel makes again, or ends, as the thread is resumed.
 * A signal that comes before then meets the call as it would have without us; one that found rewound registers
 * would run its handler in front of the call, and a pause(2) that it was to end would begin. */
void arch_unrewind(struct arch_regs *regs, enum arch_restart_code code);

uint64_t arch_ip(const struct arch_regs *regs);
void arch_set_ip(struct arch_regs *regs, uint64_t ip);
uint64_t arch_sp(const struct arch_regs *regs);
/* Number and arguments of the system call that rewound registers are about to make. */
long arch_call_nr(const struct arch_regs *regs);
uint64_t arch_call_arg(const struct arch_regs *regs, unsigned n);
void arch_set_call(struct arch_regs *regs, uint64_t insn, long nr, const uint64_t arg[6]);
/* As if the call had returned `value`: advances past the syscall instruction of rewound registers. */
void arch_set_returned(struct arch_regs *regs, long value);
long arch_return_value(const struct arch_regs *regs);
/* Makes the kernel leave the interrupted call alone on resume (orig_rax = -1). */
void arch_forget_call(struct arch_regs *regs);

/* For ARCH_INTERRUPTED: shortens the timeout that the call carries by value (epoll_wait), if any. */
void arch_shorten_timeout(struct arch_regs *regs, uint64_t elapsed_ns);
/* For ARCH_INTERRUPTED: which argument points to its relative timeout (struct timespec), -1: none does. */
int arch_timeout_arg(const struct arch_regs *regs);
void arch_set_call_arg(struct arch_regs *regs, unsigned n, uint64_t value);
/* An address that the thread's code does not count on: below its stack pointer and the red zone. */
uint64_t arch_scratch(const struct arch_regs *regs, size_t len);
/* The call number that `code` (the bytes before and including a syscall instruction) loads, -1 if it
 * cannot be told: for a thread that is already inside restart_syscall(2). */
long arch_guess_call_nr(const void *code, size_t len);

uint64_t arch_syscall_len(void); /* bytes of that instruction */
/* Finds a `syscall` instruction in an executable image; offset or -1. */
long arch_find_syscall_insn(const void *image, size_t len);

/* The batch executor: position-independent code, see remote.h. */
extern const char arch_blob_start[], arch_blob_end[];
uint64_t arch_blob_syscall_offset(void); /* of a `syscall` instruction in it */
/* Whether the registers stand behind one of the executor's traps. */
bool arch_at_blob_trap(const struct arch_regs *regs, uint64_t blob);
/* Entry that runs `n` calls of struct remote_call from `calls`, then traps. */
void arch_prepare_batch(struct arch_regs *regs, uint64_t blob, uint64_t calls, uint64_t n);
/* Entry that touches every state component that is enabled on first use (AMX tiles), then traps. */
void arch_prepare_touch_xstate(struct arch_regs *regs, uint64_t blob);

/* ---- the CPU (x86_64_cpu.c) ---------------------------------------------------------------- */

/* For the model's Host: feature words of cpuid, XCR0 and XSAVE size of this machine, its name. */
size_t arch_cpuid_words(uint32_t *ret, size_t room);
uint64_t arch_xcr0(void);
uint64_t arch_xsave_size(void);
size_t arch_cpu_name(char *buf, size_t len);

/* Level of the x86-64 psABI that a CPU with these words has: 1 to ARCH_LEVEL_MOST. */
#define ARCH_LEVEL_MOST 4u
unsigned arch_cpu_level(const uint32_t *words, size_t n);

/* A feature that programs may use. reg says where cpuid tells it, as far as anybody asks. */
struct arch_feature {
	const char *name; /* as the manuals call it: "SSE4.1", "AVX-512F" */
	enum { ARCH_LEAF_OTHER, ARCH_LEAF_1_ECX, ARCH_LEAF_7_EBX, ARCH_LEAF_7_ECX } reg;
	unsigned bit;
};
/* The next feature in the words that a CPU of that level may lack. *at starts as 0. False: there is none. */
bool arch_feature_beyond(const uint32_t *words, size_t n, unsigned level, size_t *at,
			 struct arch_feature *ret);

/* Refuses (ERR_UNSUPPORTED, naming it) features that this CPU lacks. baseline: the level that the job was kept
 * to at its launch, and which alone counts then; 0: it may have seen all. */
int arch_check_cpu(const uint32_t *saved_cpuid, size_t n_words, uint64_t saved_xcr0,
		   unsigned baseline, struct err *err);
/* … and registers in use that it lacks, but for the rights of protection keys, which have a value always. */
int arch_check_xstate(const void *xstate, size_t len, struct err *err);
bool arch_has_protection_keys(void);

/* Components in use (XSTATE_BV) in an NT_X86_XSTATE set. */
uint64_t arch_xstate_in_use(const void *xstate, size_t len);
/* Where the extended components lie in such a set on this machine: cpuid leaf 0xd. It is not the same on all:
 * PKRU is at 2688 on Intel's, elsewhere on AMD's, and AVX-512 begins behind MPX, which not all have room for. */
struct arch_component {
	uint32_t number, offset, size;
};
#define ARCH_COMPONENTS_MOST 62u
size_t arch_xstate_layout(struct arch_component *ret, size_t room);
/* Fills out with the saved set as a machine with layout `to` has it. ERR_UNSUPPORTED names a component in use
 * that does not fit. Protection keys' rights go where there is no such register. */
int arch_convert_xstate(const void *saved, size_t saved_len, const struct arch_component *from,
			size_t n_from, const struct arch_component *to, size_t n_to, void *out,
			size_t len, struct err *err);

#endif
