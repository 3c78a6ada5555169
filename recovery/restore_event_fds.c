/*
 * Event counters, signal descriptors, timers and epoll instances. Made here and sent; what an epoll
 * instance watches are numbers of the process, so it is told there, when all descriptors are in place.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "recovery/batch.h"
#include "store/base/io.h"
#include "store/base/units.h"

#ifndef TFD_IOC_SET_TICKS
#define TFD_IOC_SET_TICKS _IOW('T', 0, uint64_t) /* include/uapi/linux/timerfd.h, Linux 3.17 */
#endif

int open_eventfd(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__OpenFile *open = rec->model->open_files[index];
	uint64_t value = open->value;
	int fd = eventfd(0, EFD_CLOEXEC | (open->semaphore ? EFD_SEMAPHORE : 0));

	rec->open_fds[index] = fd;
	if (fd < 0 || (value && write_full(fd, &value, sizeof(value)) < 0) ||
	    set_nonblock(fd, open->flags) < 0)
		return err_sys(err, "event counter of open file %zu", index);
	return 0;
}

int open_signalfd(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__OpenFile *open = rec->model->open_files[index];
	uint64_t mask = open->mask;
	int fd = (int)syscall(SYS_signalfd4, -1, &mask, sizeof(mask), SFD_CLOEXEC);

	rec->open_fds[index] = fd;
	if (fd < 0 || set_nonblock(fd, open->flags) < 0)
		return err_sys(err, "signal descriptor of open file %zu", index);
	return 0;
}

static struct timespec to_timespec(uint64_t ns)
{
	return (struct timespec){.tv_sec = (time_t)(ns / NSEC_PER_SEC), .tv_nsec = (long)(ns % NSEC_PER_SEC)};
}

/* A periodic timer that has fired stands still until it is read (fs/timerfd.c, timerfd_tmrproc): made by
 * letting it fire again, at once. */
static bool waits_for_reader(const Snap__TimerFd *timer)
{
	return timer->remaining == 0 && timer->interval != 0 && timer->ticks == 1;
}

/* A timer set to an instant of the wall clock keeps that instant; every other one what remains of it. */
static uint64_t timer_value(struct recovery *rec, const Snap__TimerFd *timer, bool wall)
{
	uint64_t passed = recovery_time_passed(rec);

	if (timer->remaining == 0)
		return waits_for_reader(timer) ? 1 : 0;
	if (wall)
		return timer->remaining + rec->model->clocks->realtime;
	return timer->remaining > passed ? timer->remaining - passed : 1;
}

static int arm_timerfd(struct recovery *rec, const Snap__TimerFd *timer, int fd)
{
	bool wall = (timer->clock == CLOCK_REALTIME || timer->clock == CLOCK_REALTIME_ALARM) &&
		    timer->flags & TFD_TIMER_ABSTIME;
	uint64_t value = timer_value(rec, timer, wall);
	const struct itimerspec spec = {to_timespec(timer->interval), to_timespec(value)};
	uint64_t ticks = timer->ticks;

	if (value && timerfd_settime(fd, wall && timer->remaining ? timer->flags : 0, &spec, NULL) < 0)
		return -1;
	return ticks && !waits_for_reader(timer) ? ioctl(fd, TFD_IOC_SET_TICKS, &ticks) : 0;
}

int open_timerfd(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__OpenFile *open = rec->model->open_files[index];
	int fd = timerfd_create(open->timer->clock, TFD_CLOEXEC);

	rec->open_fds[index] = fd;
	if (fd < 0 || arm_timerfd(rec, open->timer, fd) < 0 || set_nonblock(fd, open->flags) < 0)
		return err_sys(err, "timer of open file %zu", index);
	return 0;
}

int open_epoll(struct recovery *rec, size_t index, struct err *err)
{
	rec->open_fds[index] = epoll_create1(EPOLL_CLOEXEC);
	return rec->open_fds[index] < 0 ? err_sys(err, "epoll instance of open file %zu", index) : 0;
}

/* The first process, and its first number, that has the instance tells it. */
static bool is_first_holder(const struct recovery *rec, const struct stub *stub, size_t fd)
{
	int32_t open_file = stub->model->fds[fd]->open_file;

	for (size_t i = 0; i < rec->model->n_processes; i++) {
		const Snap__Process *p = rec->model->processes[i];

		for (size_t j = 0; j < p->n_fds; j++)
			if (p->fds[j]->open_file == open_file)
				return p == stub->model && j == fd;
	}
	return false;
}

static int queue_entry(struct batch *b, const Snap__EpollEntry *e, int number, struct err *err)
{
	struct epoll_event event = {.events = e->events, .data.u64 = e->data};

	if (batch_room(b, 1, sizeof(event), err) < 0)
		return -1;
	return batch_call(b, BATCH_MUST, err, SYS_epoll_ctl,
			  ARGS((uint64_t)number, EPOLL_CTL_ADD, (uint64_t)e->fd,
			       batch_push(b, &event, sizeof(event))),
			  "epoll instance %d watching descriptor %d", number, e->fd);
}

static const Snap__Fd *find_number(const Snap__Process *p, int number)
{
	for (size_t i = 0; i < p->n_fds; i++)
		if (p->fds[i]->number == number)
			return p->fds[i];
	return NULL;
}

/* What it watches is not under that number here: it is put there for a moment. */
static int watch_other(struct recovery *rec, struct stub *stub, const Snap__EpollEntry *e, int number,
		       struct err *err)
{
	const Snap__Fd *own = find_number(stub->model, e->fd);
	uint64_t at = (uint64_t)e->fd, aside = (uint64_t)stub->scratch + 1;
	struct batch b;
	int arrived;

	if (stub_send(rec, stub, &rec->open_fds[e->open_file - 1], 1, &arrived, err) < 0)
		return -1;
	batch_begin(&b, stub, &stub->threads[0]);
	if ((own && batch_call(&b, BATCH_MUST, err, SYS_dup3, ARGS(at, aside, O_CLOEXEC), "descriptor %d", e->fd) < 0) ||
	    (arrived != e->fd &&
	     (batch_call(&b, BATCH_MUST, err, SYS_dup3, ARGS((uint64_t)arrived, at, O_CLOEXEC), "descriptor %d",
			 e->fd) < 0 ||
	      batch_call(&b, BATCH_MUST, err, SYS_close, ARGS((uint64_t)arrived), "close") < 0)) ||
	    queue_entry(&b, e, number, err) < 0)
		return -1;
	if (!own)
		return batch_call(&b, BATCH_MUST, err, SYS_close, ARGS(at), "close") < 0 ? -1 : batch_run(&b, err);
	if (batch_call(&b, BATCH_MUST, err, SYS_dup3, ARGS(aside, at, own->close_on_exec ? O_CLOEXEC : 0),
		       "descriptor %d", e->fd) < 0 ||
	    batch_call(&b, BATCH_MUST, err, SYS_close, ARGS(aside), "close") < 0)
		return -1;
	return batch_run(&b, err);
}

static int tell_epoll(struct recovery *rec, struct stub *stub, const Snap__OpenFile *open, int number,
		      struct err *err)
{
	struct batch b;

	batch_begin(&b, stub, &stub->threads[0]);
	for (size_t i = 0; i < open->n_watched; i++)
		if (!open->watched[i]->open_file && queue_entry(&b, open->watched[i], number, err) < 0)
			return -1;
	if (batch_run(&b, err) < 0)
		return -1;
	for (size_t i = 0; i < open->n_watched; i++)
		if (open->watched[i]->open_file && watch_other(rec, stub, open->watched[i], number, err) < 0)
			return -1;
	return 0;
}

static bool is_held(const struct recovery *rec, size_t open_file)
{
	for (size_t i = 0; i < rec->model->n_processes; i++)
		for (size_t j = 0; j < rec->model->processes[i]->n_fds; j++)
			if (rec->model->processes[i]->fds[j]->open_file == (int32_t)open_file)
				return true;
	return false;
}

/* One that is in flight, and in no process: this one is lent it, under a number out of the way of all others. */
static int tell_flying(struct recovery *rec, struct stub *stub, size_t index, struct err *err)
{
	const Snap__OpenFile *open = rec->model->open_files[index];
	int number = stub->scratch + 2, arrived;
	struct batch b;

	if (stub_send(rec, stub, &rec->open_fds[index], 1, &arrived, err) < 0)
		return -1;
	batch_begin(&b, stub, &stub->threads[0]);
	if (batch_call(&b, BATCH_MUST, err, SYS_dup3, ARGS((uint64_t)arrived, (uint64_t)number, O_CLOEXEC),
		       "epoll instance") < 0 ||
	    batch_call(&b, BATCH_MUST, err, SYS_close, ARGS((uint64_t)arrived), "close") < 0 || batch_run(&b, err) < 0)
		return -1;
	for (size_t i = 0; i < open->n_watched; i++)
		if (watch_other(rec, stub, open->watched[i], number, err) < 0)
			return -1;
	batch_begin(&b, stub, &stub->threads[0]);
	if (batch_call(&b, BATCH_MUST, err, SYS_close, ARGS((uint64_t)number), "close") < 0)
		return -1;
	return batch_run(&b, err);
}

static int tell_all_flying(struct recovery *rec, struct stub *stub, struct err *err)
{
	for (size_t i = 0; i < rec->model->n_open_files; i++)
		if (rec->model->open_files[i]->kind == SNAP__OPEN_FILE__KIND__EPOLL &&
		    rec->model->open_files[i]->n_watched && !is_held(rec, i) && tell_flying(rec, stub, i, err) < 0)
			return -1;
	return 0;
}

int stub_tell_epolls(struct recovery *rec, struct stub *stub, struct err *err)
{
	const Snap__Process *p = stub->model;

	for (size_t i = 0; i < p->n_fds; i++) {
		const Snap__OpenFile *open = rec->model->open_files[p->fds[i]->open_file];

		if (open->kind == SNAP__OPEN_FILE__KIND__EPOLL && is_first_holder(rec, stub, i) &&
		    tell_epoll(rec, stub, open, p->fds[i]->number, err) < 0)
			return -1;
	}
	return p == rec->model->processes[0] ? tell_all_flying(rec, stub, err) : 0;
}
