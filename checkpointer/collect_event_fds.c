#include "checkpointer/descriptor.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

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

int describe_timerfd(const struct collected_process *p, const struct descriptor *d,
		     Snap__OpenFile *o, struct err *err)
{
	struct proc_timerfd timer;

	if (proc_read_timerfd(p->frozen->pid, d->fd, &timer, err) < 0)
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

/* The instance remembers descriptor numbers as they were when it was told of them. One that has been closed
 * since, while a duplicate keeps its description alive, is watched under a number that means nothing or
 * something else now. */
static int check_watched(const struct collected_process *p, const struct descriptor *d,
			 const struct proc_epoll_entry *entry, struct err *err)
{
	char path[64], text[96];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", p->frozen->pid, entry->fd);
	if (stat(path, &st) == 0 && (!entry->inode || st.st_ino == entry->inode))
		return 0;
	snprintf(text, sizeof(text), "an epoll instance that watches fd %d, which has been closed",
		 entry->fd);
	return descriptor_refuse(p, d, text, err);
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
		Snap__EpollEntry *e;

		if (check_watched(p, d, &list[i], err) < 0)
			return -1;
		e = snap_append(&o->watched, &o->n_watched, Snap__EpollEntry, SNAP__EPOLL_ENTRY__INIT);
		if (!e)
			return err_sys(err, "epoll instance");
		e->fd = list[i].fd;
		e->events = list[i].events;
		e->data = list[i].data;
	}
	return 0;
}
