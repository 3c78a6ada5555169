#include "checkpointer/tracee/tracee.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/uio.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"

typedef ssize_t vm_call(pid_t, const struct iovec *, unsigned long, const struct iovec *,
			unsigned long, unsigned long);

/* The kernel moves at most 2 GiB and stops at the first page it cannot reach: loop, then fail. */
static int vm_transfer(vm_call *call, pid_t pid, uint64_t addr, void *buf, size_t len)
{
	char *p = buf;

	while (len > 0) {
		struct iovec local = {p, len};
		struct iovec remote = {(void *)addr, len};
		ssize_t n = call(pid, &local, 1, &remote, 1, 0);

		if (n == 0)
			errno = EFAULT;
		if (n <= 0)
			return -1;
		p += n;
		addr += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int mem_read(pid_t pid, uint64_t addr, void *buf, size_t len, struct err *err)
{
	if (vm_transfer(process_vm_readv, pid, addr, buf, len) < 0)
		return err_sys(err, "cannot read %zu bytes at 0x%llx of process %d", len,
			       (unsigned long long)addr, pid);
	return 0;
}

int mem_write(pid_t pid, uint64_t addr, const void *buf, size_t len, struct err *err)
{
	if (vm_transfer(process_vm_writev, pid, addr, (void *)buf, len) < 0)
		return err_sys(err, "cannot write %zu bytes at 0x%llx of process %d", len,
			       (unsigned long long)addr, pid);
	return 0;
}

static int open_mem(pid_t pid, int flags, struct err *err)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, flags | O_CLOEXEC);
	/* /proc/PID then belongs to root (fs/proc/base.c, task_dump_owner), though ptrace is allowed. */
	if (fd < 0 && errno == EACCES)
		return err_set(err, ERR_UNSUPPORTED,
			       "process %d is not dumpable (PR_SET_DUMPABLE, or a program that may not be "
			       "read)",
			       pid);
	return fd < 0 ? err_sys(err, "cannot open %s", path) : fd;
}

int mem_write_forced(pid_t pid, uint64_t addr, const void *buf, size_t len, struct err *err)
{
	cleanup_fd int fd = open_mem(pid, O_WRONLY, err);

	if (fd < 0)
		return -1;
	if (pwrite_full(fd, buf, len, (off_t)addr) < 0)
		return err_sys(err, "cannot write %zu bytes at 0x%llx of process %d", len,
			       (unsigned long long)addr, pid);
	return 0;
}

int mem_read_forced(pid_t pid, uint64_t addr, void *buf, size_t len, struct err *err)
{
	cleanup_fd int fd = open_mem(pid, O_RDONLY, err);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = pread_upto(fd, buf, len, (off_t)addr);
	if (n >= 0 && (size_t)n < len)
		errno = EFAULT;
	if (n < 0 || (size_t)n < len)
		return err_sys(err, "cannot read %zu bytes at 0x%llx of process %d", len,
			       (unsigned long long)addr, pid);
	return 0;
}
