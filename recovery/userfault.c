#include "recovery/userfault.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/store.h"

#define PROBE_MS 2000

int userfault_step(int uffd, uint64_t addr, const void *pages, size_t n, size_t *done)
{
	while (*done < n) {
		struct uffdio_copy copy = {.dst = addr + *done * STORE_PAGE_SIZE,
					   .src = (uintptr_t)pages + *done * STORE_PAGE_SIZE,
					   .len = (n - *done) * STORE_PAGE_SIZE};

		if (ioctl(uffd, UFFDIO_COPY, &copy) == 0)
			*done = n;
		else if (copy.copy > 0) /* some, up to what the next call will tell */
			*done += (size_t)copy.copy / STORE_PAGE_SIZE;
		else if (errno == EEXIST)
			++*done;
		else
			return errno;
	}
	return 0;
}

int userfault_copy(int uffd, uint64_t addr, const void *pages, size_t n, struct err *err)
{
	size_t done = 0;
	int why;

	do
		why = userfault_step(uffd, addr, pages, n, &done);
	while (why == EAGAIN);
	return why == 0 ? 0
			: err_code(err, why, "cannot fill memory at %#llx",
				   (unsigned long long)(addr + done * STORE_PAGE_SIZE));
}

int userfault_zero(int uffd, uint64_t addr)
{
	struct uffdio_zeropage zero = {.range = {.start = addr, .len = STORE_PAGE_SIZE}};

	return ioctl(uffd, UFFDIO_ZEROPAGE, &zero) == 0 || errno == EEXIST ? 0 : errno;
}

void userfault_wake(int uffd, uint64_t addr)
{
	struct uffdio_range range = {.start = addr, .len = STORE_PAGE_SIZE};

	ioctl(uffd, UFFDIO_WAKE, &range);
}

/* ---- trying it ----------------------------------------------------------------------------- */

struct probe {
	int uffd;
	char *page;
	char content[STORE_PAGE_SIZE];
};

/* Where nothing is told, the page becomes an ordinary one, lest whoever waits for it wait forever. */
static void *serve_one(void *arg)
{
	struct probe *p = arg;
	struct pollfd fd = {.fd = p->uffd, .events = POLLIN};
	struct uffdio_range range = {.start = (uintptr_t)p->page, .len = STORE_PAGE_SIZE};
	struct uffd_msg msg;
	size_t done = 0;

	if (poll(&fd, 1, PROBE_MS) != 1 || read(p->uffd, &msg, sizeof(msg)) != sizeof(msg) ||
	    msg.event != UFFD_EVENT_PAGEFAULT ||
	    userfault_step(p->uffd, (uintptr_t)p->page, p->content, 1, &done) != 0)
		ioctl(p->uffd, UFFDIO_UNREGISTER, &range);
	return NULL;
}

/* The kernel reads the page for us: that fault is served too. */
static bool serves(struct probe *p)
{
	struct uffdio_register reg = {.range = {.start = (uintptr_t)p->page, .len = STORE_PAGE_SIZE},
				      .mode = UFFDIO_REGISTER_MODE_MISSING};
	pthread_t thread;
	int ends[2];
	char got = 0;

	memset(p->content, 'p', sizeof(p->content));
	if (ioctl(p->uffd, UFFDIO_REGISTER, &reg) < 0 || pipe2(ends, O_CLOEXEC) < 0)
		return false;
	if (pthread_create(&thread, NULL, serve_one, p) == 0) {
		if (write(ends[1], p->page, 1) != 1 || read(ends[0], &got, 1) != 1)
			got = 0;
		pthread_join(thread, NULL);
	}
	close(ends[0]);
	close(ends[1]);
	return got == 'p';
}

bool userfault_probe(const char **ret_why)
{
	static const char denied[] = "it takes root (CAP_SYS_PTRACE): the kernel tells nobody else of forks of a "
				     "process whose memory is still to come";
	struct uffdio_api api = {.api = UFFD_API, .features = USERFAULT_EVENTS};
	cleanup_fd int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct probe p = {.uffd = fd, .page = MAP_FAILED};
	bool works;

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0) {
		*ret_why = errno == EPERM ? denied : "this kernel has no userfaultfd that tells of forks";
		return false;
	}
	p.page = mmap(NULL, STORE_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	works = p.page != MAP_FAILED && serves(&p);
	cleanup_fd_p(&fd); /* or munmap would wait for somebody to be told */
	if (p.page != MAP_FAILED)
		munmap(p.page, STORE_PAGE_SIZE);
	*ret_why = works ? "userfaultfd serves all faults and follows forks"
			 : "a page fault that the kernel met was not served through userfaultfd";
	return works;
}
