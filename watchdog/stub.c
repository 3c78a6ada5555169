/* Runs in a fork of the watchdog: no allocation, no locks (see init.h). */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "watchdog/init.h"

/*
 * A stub executes a program of a few bytes that does nothing but wait. Not to save memory: an address
 * space belongs to the user namespace in which it was made (mm->user_ns, set by exec alone), and when
 * the job is not dumpable only those with rights over that namespace may trace it. A stub that had kept
 * the watchdog's address space would be out of an ordinary watchdog's reach from then on.
 */
#define LOAD_ADDRESS 0x400000u

struct waiting_program {
	Elf64_Ehdr header;
	Elf64_Phdr segments[2];
	unsigned char code[16];
};

static const struct waiting_program program = {
	.header = {
		.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_version = EV_CURRENT,
		.e_entry = LOAD_ADDRESS + offsetof(struct waiting_program, code),
		.e_phoff = offsetof(struct waiting_program, segments),
		.e_ehsize = sizeof(Elf64_Ehdr),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 2,
	},
	.segments = {
		{.p_type = PT_LOAD, .p_flags = PF_R | PF_X, .p_vaddr = LOAD_ADDRESS,
		 .p_paddr = LOAD_ADDRESS, .p_filesz = sizeof(struct waiting_program),
		 .p_memsz = sizeof(struct waiting_program), .p_align = 4096},
		{.p_type = PT_GNU_STACK, .p_flags = PF_R | PF_W, .p_align = 16},
	},
	/* 1: mov $SYS_pause, %eax; syscall; jmp 1b */
	.code = {0xb8, SYS_pause, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7},
};

/* Capabilities in the namespace survive the exec of an ordinary user only as ambient ones. */
static int keep_capabilities(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct sets[2];
	int cap;

	if (syscall(SYS_capget, &header, sets) < 0)
		return -1;
	for (cap = 0; cap < 2; cap++)
		sets[cap].inheritable = sets[cap].permitted;
	if (syscall(SYS_capset, &header, sets) < 0)
		return -1;
	for (cap = 0; cap < 64; cap++)
		if (sets[cap / 32].permitted >> (cap % 32) & 1 &&
		    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0)
			return -1;
	return 0;
}

static int execute(void)
{
	char *const nothing[] = {(char *)"stub", NULL};
	int fd = memfd_create("stub", MFD_CLOEXEC);

	if (fd < 0 || write(fd, &program, sizeof(program)) != (ssize_t)sizeof(program) ||
	    keep_capabilities() < 0)
		return errno;
	syscall(SYS_execveat, fd, "", nothing, nothing + 1, AT_EMPTY_PATH);
	return errno;
}

/* The C library registered its rseq area; the stub's memory will be replaced under it. */
static void leave_rseq(void)
{
	char *area = (char *)__builtin_thread_pointer() + __rseq_offset;

	if (__rseq_size == 0)
		return;
	/* glibc registers 32 bytes whatever part of them __rseq_size says is in use. */
	if (syscall(SYS_rseq, area, 32, RSEQ_FLAG_UNREGISTER, RSEQ_SIG) < 0)
		syscall(SYS_rseq, area, __rseq_size, RSEQ_FLAG_UNREGISTER, RSEQ_SIG);
}

static void close_all_but(int a, int b)
{
	int low = a < b ? a : b, high = a < b ? b : a;

	if (low > 0)
		close_range(0, (unsigned)low - 1, 0);
	if (high > low + 1)
		close_range((unsigned)low + 1, (unsigned)high - 1, 0);
	close_range((unsigned)high + 1, ~0u, 0);
}

_Noreturn void stub_main(int socket, int report_fd)
{
	int code;

	close_all_but(socket, report_fd);
	fcntl(socket, F_SETFD, 0);
	code = execute();
	/* Where a memfd may not be executed (vm.memfd_noexec), the watchdog's own memory has to do. */
	leave_rseq();
	if (write(report_fd, &code, sizeof(code)) < 0)
		_exit(1);
	close_all_but(socket, socket);
	for (;;)
		pause();
}
