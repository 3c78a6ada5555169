#include "checkpointer/tracee/procfs.h"

#include <stdlib.h>
#include <unistd.h>

#include "checkpointer/tracee/procfs_text.h"
#include "store/base/cleanup.h"
#include "store/base/units.h"

/* ---- epoll --------------------------------------------------------------------------------- */

static bool take_label(struct text *t, const char *label)
{
	text_skip_blanks(t);
	return text_prefix(t, label);
}

/* "tfd:        4 events: 80000019 data:                4  pos:0 ino:8b2bf sdev:f" (data, ino, sdev hex) */
static bool take_entry(struct text *t, struct proc_epoll_entry *entry)
{
	uint64_t fd, events, pos;

	if (!text_field(t, 10, &fd) || fd > INT32_MAX || !take_label(t, "events:") ||
	    !text_field(t, 16, &events) || events > UINT32_MAX || !take_label(t, "data:") ||
	    !text_field(t, 16, &entry->data))
		return false;
	entry->fd = (int)fd;
	entry->events = (uint32_t)events;
	entry->inode = 0;
	/* Since Linux 4.12. */
	if (take_label(t, "pos:"))
		return text_field(t, 10, &pos) && take_label(t, "ino:") &&
		       text_field(t, 16, &entry->inode);
	return true;
}

int proc_parse_epoll(const char *text, struct proc_epoll_entry **ret, size_t *ret_n, struct err *err)
{
	cleanup_free struct proc_epoll_entry *list = NULL;
	size_t n = 0, room = 0;
	struct text line;

	while (text_next_line(&text, &line)) {
		const char *start = line.p;

		if (!text_prefix(&line, "tfd:"))
			continue;
		if (n == room) {
			struct proc_epoll_entry *more;

			room = room ? room * 2 : 16;
			more = reallocarray(list, room, sizeof(*more));
			if (!more)
				return err_sys(err, "epoll instance");
			list = more;
		}
		if (!take_entry(&line, &list[n++]))
			return text_corrupt(err, "fdinfo of an epoll instance", start);
	}
	*ret = steal_ptr(&list);
	*ret_n = n;
	return 0;
}

int proc_read_epoll(pid_t pid, int fd, struct proc_epoll_entry **ret, size_t *ret_n, struct err *err)
{
	cleanup_free char *text = NULL;

	if (text_read(&text, err, "/proc/%d/fdinfo/%d", (int)pid, fd) < 0)
		return -1;
	return proc_parse_epoll(text, ret, ret_n, err);
}

/* ---- timerfd ------------------------------------------------------------------------------- */

/* "(99, 999900670)": seconds and nanoseconds. */
static bool take_time(struct text *t, uint64_t *ret)
{
	uint64_t s, ns;

	text_skip_blanks(t);
	if (!text_char(t, '(') || !text_number(t, 10, &s) || !text_char(t, ',') ||
	    !text_field(t, 10, &ns) || !text_char(t, ')') || ns >= NSEC_PER_SEC ||
	    s > UINT64_MAX / NSEC_PER_SEC - 1)
		return false;
	*ret = s * NSEC_PER_SEC + ns;
	return true;
}

static bool take_timer_line(struct text *t, struct proc_timerfd *timer, unsigned *seen)
{
	uint64_t value;

	if (text_prefix(t, "clockid:")) {
		*seen |= 1;
		if (!text_field(t, 10, &value) || value > 255)
			return false;
		timer->clock = (int)value;
	} else if (text_prefix(t, "ticks:")) {
		return text_field(t, 10, &timer->ticks);
	} else if (text_prefix(t, "settime flags:")) {
		if (!text_field(t, 8, &value) || value > INT32_MAX)
			return false;
		timer->settime_flags = (int)value;
	} else if (text_prefix(t, "it_value:")) {
		*seen |= 2;
		return take_time(t, &timer->value);
	} else if (text_prefix(t, "it_interval:")) {
		*seen |= 4;
		return take_time(t, &timer->interval);
	}
	return true;
}

int proc_parse_timerfd(const char *text, struct proc_timerfd *ret, struct err *err)
{
	struct proc_timerfd timer = {0};
	unsigned seen = 0;
	struct text line;

	while (text_next_line(&text, &line)) {
		const char *start = line.p;

		if (!take_timer_line(&line, &timer, &seen))
			return text_corrupt(err, "fdinfo of a timerfd", start);
	}
	if (seen != 7)
		return err_set(err, ERR_CORRUPT, "fdinfo of a timerfd: a line is missing");
	*ret = timer;
	return 0;
}

int proc_read_timerfd(pid_t pid, int fd, struct proc_timerfd *ret, struct err *err)
{
	cleanup_free char *text = NULL;

	if (text_read(&text, err, "/proc/%d/fdinfo/%d", (int)pid, fd) < 0)
		return -1;
	return proc_parse_timerfd(text, ret, err);
}

/* ---- clocks -------------------------------------------------------------------------------- */

int64_t proc_parse_clock_offset(const char *text, const char *clock)
{
	int64_t s, ns;
	struct text line;

	while (text_next_line(&text, &line))
		if (text_prefix(&line, clock) && text_signed(&line, &s) && text_signed(&line, &ns))
			return s * (int64_t)NSEC_PER_SEC + ns;
	return 0;
}

static int64_t monotonic_offset(pid_t pid)
{
	cleanup_free char *text = NULL;
	struct err ignored;

	if (text_read(&text, &ignored, "/proc/%d/timens_offsets", (int)pid) < 0)
		return 0;
	return proc_parse_clock_offset(text, "monotonic");
}

int64_t proc_clock_lead(pid_t pid)
{
	return monotonic_offset(pid) - monotonic_offset(getpid());
}

/* ---- inotify ------------------------------------------------------------------------------- */

/* Two digits a byte. */
static bool take_handle(struct text *t, struct proc_watch *w)
{
	for (unsigned i = 0; i < w->handle_bytes; i++) {
		int high = t->end - t->p < 2 ? 99 : text_digit(t->p[0]);
		int low = t->end - t->p < 2 ? 99 : text_digit(t->p[1]);

		if (high > 15 || low > 15)
			return false;
		w->handle[i] = (unsigned char)(high << 4 | low);
		t->p += 2;
	}
	return true;
}

/* "wd:1 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:7e9e…", all
 * but the type hexadecimal. sdev: 12 bits major, 20 bits minor. A file system may have no handles. */
static bool take_watch(struct text *t, struct proc_watch *w)
{
	uint64_t wd, device, mask, ignored, bytes;
	int64_t type;

	*w = (struct proc_watch){0};
	if (!take_label(t, "wd:") || !text_field(t, 16, &wd) || wd > INT32_MAX || !take_label(t, "ino:") ||
	    !text_field(t, 16, &w->inode) || !take_label(t, "sdev:") || !text_field(t, 16, &device) ||
	    device > UINT32_MAX || !take_label(t, "mask:") || !text_field(t, 16, &mask) || mask > UINT32_MAX)
		return false;
	w->wd = (int)wd;
	w->mask = (uint32_t)mask;
	w->major = (uint32_t)device >> 20;
	w->minor = (uint32_t)device & 0xfffff;
	if (!take_label(t, "ignored_mask:") || !text_field(t, 16, &ignored) || !take_label(t, "fhandle-bytes:"))
		return true;
	if (!text_field(t, 16, &bytes) || bytes > PROC_MAX_HANDLE || !take_label(t, "fhandle-type:") ||
	    !text_signed(t, &type) || type < INT32_MIN || type > INT32_MAX || !take_label(t, "f_handle:"))
		return false;
	w->handle_bytes = (unsigned)bytes;
	w->handle_type = (int)type;
	return take_handle(t, w);
}

int proc_parse_inotify(const char *text, struct proc_watch **ret, size_t *ret_n, struct err *err)
{
	cleanup_free struct proc_watch *list = NULL;
	size_t n = 0, room = 0;
	struct text line;

	while (text_next_line(&text, &line)) {
		const char *start = line.p;

		if (!text_prefix(&line, "inotify "))
			continue;
		if (n == room) {
			struct proc_watch *more;

			room = room ? room * 2 : 16;
			more = reallocarray(list, room, sizeof(*more));
			if (!more)
				return err_sys(err, "inotify instance");
			list = more;
		}
		if (!take_watch(&line, &list[n++]))
			return text_corrupt(err, "fdinfo of an inotify instance", start);
	}
	*ret = steal_ptr(&list);
	*ret_n = n;
	return 0;
}

int proc_read_inotify(pid_t pid, int fd, struct proc_watch **ret, size_t *ret_n, struct err *err)
{
	cleanup_free char *text = NULL;

	if (text_read(&text, err, "/proc/%d/fdinfo/%d", (int)pid, fd) < 0)
		return -1;
	return proc_parse_inotify(text, ret, ret_n, err);
}
