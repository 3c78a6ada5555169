#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "recovery/batch.h"
#include "recovery/fill.h"
#include "recovery/lazy_impl.h"
#include "recovery/userfault.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "store/base/search.h"

#define RANGE_LEAST (1ull << 20) /* bytes: below, registering costs more than it saves */

/* ---- userfaultfd --------------------------------------------------------------------------- */

int stub_userfaultfd(struct stub *stub, int flags, uint64_t features, int *ret, struct err *err)
{
	struct uffdio_api api = {.api = UFFD_API, .features = features};
	struct tracee *thread = &stub->threads[0];
	cleanup_fd int fd = -1;
	int why = 0;
	long number;

	if (stub_call(stub, thread, &number, err, "userfaultfd", SYS_userfaultfd,
		      ARGS((uint64_t)flags)) < 0)
		return -1;
	if (number < 0)
		return err_code(err, (int)-number, "process %d: userfaultfd", stub->model->pid);
	fd = (int)syscall(SYS_pidfd_getfd, stub->pidfd, (int)number, 0);
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
		why = errno;
	if (stub_call(stub, thread, NULL, err, "close", SYS_close, ARGS((uint64_t)number)) < 0)
		return -1;
	if (why)
		return err_code(err, why, "process %d: userfaultfd", stub->model->pid);
	*ret = steal_fd(&fd);
	return 0;
}

/* ---- what is filled through one ------------------------------------------------------------ */

static bool huge_pages_always(void)
{
	cleanup_free char *text = NULL;
	struct err ignored;

	return read_text(AT_FDCWD, "/sys/kernel/mm/transparent_hugepage/enabled", &text, NULL, &ignored) == 0 &&
	       strstr(text, "[always]");
}

/* UFFDIO_COPY puts small pages. */
static bool is_candidate(const struct stub *stub, const Snap__Region *r, bool huge)
{
	return r && r->kind == SNAP__REGION__KIND__ANONYMOUS && r->end - r->start >= RANGE_LEAST &&
	       !(r->advice & ADVICE_HUGEPAGE) && (!huge || r->advice & ADVICE_NOHUGEPAGE) &&
	       inherit_end(stub_inherited(stub), r) <= r->start;
}

static int add_range(struct fill_ranges *ranges, const Snap__Region *r, struct err *err)
{
	struct uffdio_register reg = {.range = {.start = r->start, .len = r->end - r->start},
				      .mode = UFFDIO_REGISTER_MODE_MISSING};

	if (ranges->n == ranges->room) {
		size_t room = ranges->room ? ranges->room * 2 : 16;
		struct range *more = reallocarray(ranges->list, room, sizeof(*more));

		if (!more)
			return err_set(err, ERR_SYSTEM, "out of memory");
		ranges->list = more;
		ranges->room = room;
	}
	if (ioctl(ranges->uffd, UFFDIO_REGISTER, &reg) == 0)
		ranges->list[ranges->n++] = (struct range){r->start, r->end};
	return 0;
}

int fill_ranges_open(struct recovery *rec, struct stub *stub, struct fill_ranges *ret, struct err *err)
{
	bool huge = huge_pages_always();

	for (size_t i = 0; i < stub_n_regions(stub, false); i++) {
		const Snap__Region *r = stub_region(rec, stub, false, i);

		if (!is_candidate(stub, r, huge))
			continue;
		if (ret->uffd < 0 && stub_userfaultfd(stub, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY, 0,
						      &ret->uffd, err) < 0) {
			if (err->kind == ERR_GONE)
				return -1;
			log_debug("%s", err->msg); /* not on this kernel */
			return 0;
		}
		if (add_range(ret, r, err) < 0)
			return -1;
	}
	return 0;
}

bool fill_has_heirs(const struct recovery *rec, const struct stub *stub)
{
	const struct inheritance *in = &rec->plan.inheritance;

	for (size_t i = 0; i < in->n_members; i++)
		if (in->sources[i] == (size_t)(stub - rec->stubs))
			return true;
	return false;
}

/* Through a userfaultfd that is told of everything. */
static int open_lazy(struct stub *stub, int *ret, struct err *err)
{
	if (stub_userfaultfd(stub, O_CLOEXEC | O_NONBLOCK, USERFAULT_EVENTS, ret, err) == 0)
		return 1;
	if (err->kind == ERR_GONE)
		return -1;
	log_warn("lazy recovery is not possible (%s): the memory of process %d is filled before it goes on",
		 err->msg, stub->model->pid);
	return 0;
}

int fill_ranges_open_lazy(struct recovery *rec, struct stub *stub, struct fill_ranges *ret, struct err *err)
{
	for (size_t i = 0; i < stub_n_regions(stub, false); i++) {
		const Snap__Region *r = stub_region(rec, stub, false, i);
		int opened = 1;

		if (!r || !lazy_region_fits(stub->model, r) || inherit_end(stub_inherited(stub), r) > r->start)
			continue;
		if (ret->uffd < 0 && fill_has_heirs(rec, stub)) /* it must be there before they are */
			return 0;
		if (ret->uffd < 0)
			opened = open_lazy(stub, &ret->uffd, err);
		if (opened <= 0)
			return opened;
		if (add_range(ret, r, err) < 0)
			return -1;
	}
	return 0;
}

void fill_ranges_close(struct fill_ranges *ranges)
{
	if (ranges->uffd >= 0)
		close(ranges->uffd);
	free(ranges->list);
	*ranges = (struct fill_ranges){.uffd = -1};
}

bool fill_ranges_find(const struct fill_ranges *ranges, uint64_t addr, uint64_t *ret_end)
{
	size_t at = COUNT_BEFORE(ranges->n, i, ranges->list[i].end <= addr);

	if (at == ranges->n || ranges->list[at].start > addr)
		return false;
	*ret_end = ranges->list[at].end;
	return true;
}
