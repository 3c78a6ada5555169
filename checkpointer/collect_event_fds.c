#include "checkpointer/descriptor.h"

#include <linux/kcmp.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "checkpointer/sockets.h"
#include "store/base/cleanup.h"

/* What waits for other things: counters, signals, timers, epoll. All of it is in fdinfo. */

int describe_eventfd(const struct descriptor *d, Snap__OpenFile *o)
{
	o->kind = SNAP__OPEN_FILE__KIND__EVENTFD;
	o->object = d->st.st_ino;
	o->value = d->info.eventfd_count;
	o->semaphore = d->info.eventfd_semaphore;
	return 0;
}

int describe_signalfd(const struct descriptor *d, Snap__OpenFile *o)
{
	o->kind = SNAP__OPEN_FILE__KIND__SIGNALFD;
	o->mask = d->info.signalfd_mask;
	return 0;
}

/* A periodic timer that has fired stands still until somebody looks: only then it counts how often it would
 * have fired since (fs/timerfd.c, timerfd_gettime). */
static int count_expirations(const struct collected_process *p, const struct descriptor *d, struct err *err)
{
	cleanup_fd int fd = descriptor_fetch(p, d->fd, err);
	struct itimerspec now;

	if (fd < 0)
		return -1;
	return timerfd_gettime(fd, &now) < 0 ? err_sys(err, "process %d: fd %d", p->frozen->vpid, d->fd) : 0;
}

int describe_timerfd(const struct collected_process *p, const struct descriptor *d,
		     Snap__OpenFile *o, struct err *err)
{
	struct proc_timerfd timer;

	if (proc_read_timerfd(p->frozen->pid, d->fd, &timer, err) < 0)
		return -1;
	if (timer.ticks && timer.interval && !timer.value &&
	    (count_expirations(p, d, err) < 0 || proc_read_timerfd(p->frozen->pid, d->fd, &timer, err) < 0))
		return -1;
	o->kind = SNAP__OPEN_FILE__KIND__TIMERFD;
	o->timer = malloc(sizeof(*o->timer));
	if (!o->timer)
		return err_sys(err, "timerfd");
	snap__timer_fd__init(o->timer);
	o->timer->clock = timer.clock;
	o->timer->ticks = timer.ticks;
	o->timer->flags = timer.settime_flags;
	o->timer->remaining = timer.value;
	o->timer->interval = timer.interval;
	return 0;
}

int describe_epoll(const struct collected_process *p, const struct descriptor *d, Snap__OpenFile *o,
		   struct err *err)
{
	cleanup_free struct proc_epoll_entry *list = NULL;
	size_t n;

	if (proc_read_epoll(p->frozen->pid, d->fd, &list, &n, err) < 0)
		return -1;
	o->kind = SNAP__OPEN_FILE__KIND__EPOLL;
	for (size_t i = 0; i < n; i++) {
		Snap__EpollEntry *e = snap_append(&o->watched, &o->n_watched, Snap__EpollEntry, SNAP__EPOLL_ENTRY__INIT);
		if (!e)
			return err_sys(err, "epoll instance");
		e->fd = list[i].fd;
		e->events = list[i].events;
		e->data = list[i].data;
	}
	return 0;
}

/* ---- what epoll instances watch ------------------------------------------------------------ */

/* An instance remembers descriptor numbers as they were when it was told of them. One that has been closed
 * since, while a duplicate keeps its description alive, or that another process has, is watched under a number
 * that means nothing or something else in its holder. */
static bool is_watched(pid_t pid, int fd, pid_t holder, const struct kcmp_epoll_slot *slot)
{
	return syscall(SYS_kcmp, pid, holder, KCMP_EPOLL_TFD, fd, slot) == 0;
}

/* The same number may be watched more than once, for different descriptions. */
static uint32_t place_among_equals(const Snap__OpenFile *o, size_t entry)
{
	uint32_t place = 0;

	for (size_t i = 0; i < entry; i++)
		place += o->watched[i]->fd == o->watched[entry]->fd;
	return place;
}

/* holder: the process, or we (of what is in flight), that has the instance as fd. */
static int find_watched(struct collection *c, pid_t holder, int fd, Snap__OpenFile *o, size_t entry, struct err *err)
{
	Snap__EpollEntry *e = o->watched[entry];
	const struct kcmp_epoll_slot slot = {(uint32_t)fd, (uint32_t)e->fd, place_among_equals(o, entry)};

	if (holder != getpid() && is_watched(holder, e->fd, holder, &slot))
		return 0;
	for (size_t i = 0; i < c->shared.n; i++) {
		const struct shared_entry *s = c->shared.list[i];

		if (is_watched(s->pid, s->fd, holder, &slot)) {
			e->open_file = 1 + s->open_file;
			return 0;
		}
	}
	return err_set(err, ERR_UNSUPPORTED, "an epoll instance that watches what was fd %d, which no process of the "
					     "job has", e->fd);
}

static int find_flying(const struct collection *c, size_t open_file)
{
	for (size_t i = 0; c->sockets && i < c->sockets->n_flying; i++)
		if (c->sockets->flying[i].open_file == (int32_t)open_file)
			return c->sockets->flying[i].fd;
	return -1;
}

/* A socket has but one description: no question is needed. (Each takes the kernel a walk through all that the
 * instance watches.) */
static bool is_own_socket(const struct collection *c, const Snap__Process *m, const struct proc_epoll_entry *e)
{
	const Snap__Fd *fd = e->inode ? find_number(m, e->fd) : NULL;
	const Snap__OpenFile *o = fd ? c->model->open_files[fd->open_file] : NULL;

	return o && o->kind == SNAP__OPEN_FILE__KIND__SOCKET && o->object == e->inode;
}

static int relate_epoll(struct collection *c, size_t index, struct err *err)
{
	cleanup_free struct proc_epoll_entry *list = NULL;
	size_t n = 0;
	Snap__OpenFile *o = c->model->open_files[index];
	const struct collected_process *p = NULL;
	char label[96];
	int fd;

	if (!find_holder(c, index, &p, &fd))
		fd = find_flying(c, index);
	else if (o->n_watched && proc_read_epoll(p->frozen->pid, fd, &list, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < o->n_watched; i++) {
		if (i < n && list[i].fd == o->watched[i]->fd && is_own_socket(c, p->model, &list[i]))
			continue;
		if (find_watched(c, p ? p->frozen->pid : getpid(), fd, o, i, err) == 0)
			continue;
		return err_wrap(err, "%s: fd %d", p ? process_label(p->frozen, label, sizeof(label)) : "in flight in a socket",
				fd);
	}
	return 0;
}

int relate_epolls(struct collection *c, struct err *err)
{
	for (size_t i = 0; i < c->model->n_open_files; i++)
		if (c->model->open_files[i]->kind == SNAP__OPEN_FILE__KIND__EPOLL &&
		    refusals_go_on(&c->refusals, relate_epoll(c, i, err), err) < 0)
			return -1;
	return 0;
}
