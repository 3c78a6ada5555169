#include "checkpointer/tracee/procfs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "checkpointer/tracee/procfs_text.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"

void text_unescape_comm(const char *from, const char *end, char *ret, size_t room)
{
	size_t n = 0;

	while (from < end && n + 1 < room) {
		if (*from == '\\' && end - from >= 2 && (from[1] == 'n' || from[1] == '\\')) {
			ret[n++] = from[1] == 'n' ? '\n' : '\\';
			from += 2;
		} else {
			ret[n++] = *from++;
		}
	}
	ret[n] = '\0';
}

int text_read(char **ret, struct err *err, const char *fmt, ...)
{
	char path[128];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(path, sizeof(path), fmt, ap);
	va_end(ap);
	if (read_text(AT_FDCWD, path, ret, NULL, err) == 0)
		return 0;
	if (err->sys_errno == ENOENT || err->sys_errno == ESRCH)
		err->kind = ERR_GONE;
	return -1;
}

/* ---- limits -------------------------------------------------------------------------------- */

static const char *const limit_names[PROC_N_LIMITS] = {
	[RLIMIT_CPU] = "Max cpu time",
	[RLIMIT_FSIZE] = "Max file size",
	[RLIMIT_DATA] = "Max data size",
	[RLIMIT_STACK] = "Max stack size",
	[RLIMIT_CORE] = "Max core file size",
	[RLIMIT_RSS] = "Max resident set",
	[RLIMIT_NPROC] = "Max processes",
	[RLIMIT_NOFILE] = "Max open files",
	[RLIMIT_MEMLOCK] = "Max locked memory",
	[RLIMIT_AS] = "Max address space",
	[RLIMIT_LOCKS] = "Max file locks",
	[RLIMIT_SIGPENDING] = "Max pending signals",
	[RLIMIT_MSGQUEUE] = "Max msgqueue size",
	[RLIMIT_NICE] = "Max nice priority",
	[RLIMIT_RTPRIO] = "Max realtime priority",
	[RLIMIT_RTTIME] = "Max realtime timeout",
};
_Static_assert(RLIM_NLIMITS == PROC_N_LIMITS, "a limit has no name here");

static bool take_limit(struct text *t, uint64_t *ret)
{
	text_skip_blanks(t);
	if (text_prefix(t, "unlimited")) {
		*ret = UINT64_MAX;
		return true;
	}
	return text_number(t, 10, ret);
}

int proc_parse_limits(const char *text, struct proc_limit ret[PROC_N_LIMITS], struct err *err)
{
	struct proc_limit limits[PROC_N_LIMITS];
	unsigned seen = 0;
	struct text line;

	while (text_next_line(&text, &line)) {
		const char *start = line.p;

		for (unsigned i = 0; i < PROC_N_LIMITS; i++) {
			if (!text_prefix(&line, limit_names[i]))
				continue;
			if (!take_limit(&line, &limits[i].soft) ||
			    !take_limit(&line, &limits[i].hard))
				return text_corrupt(err, "limits", start);
			seen |= 1u << i;
			break;
		}
	}
	for (unsigned i = 0; i < PROC_N_LIMITS; i++)
		if (!(seen & 1u << i))
			return err_set(err, ERR_CORRUPT, "limits: no line '%s'", limit_names[i]);
	memcpy(ret, limits, sizeof(limits));
	return 0;
}

/* ---- fdinfo -------------------------------------------------------------------------------- */

static void skip_word(struct text *t)
{
	text_skip_blanks(t);
	while (t->p < t->end && *t->p != ' ')
		t->p++;
	text_skip_blanks(t);
}

static bool take_lock_kind(struct text *t, enum proc_lock_kind *ret)
{
	static const struct {
		const char *name;
		enum proc_lock_kind kind;
	} kinds[] = {{"POSIX", PROC_LOCK_POSIX},
		     {"FLOCK", PROC_LOCK_FLOCK},
		     {"OFDLCK", PROC_LOCK_OFD},
		     {"LEASE", PROC_LOCK_LEASE}};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (text_prefix(t, kinds[i].name)) {
			*ret = kinds[i].kind;
			return true;
		}
	return false;
}

/* "lock:\t1: POSIX  ADVISORY  WRITE 1234 08:01:5678 0 EOF" */
static bool take_lock(struct text *t, struct proc_fdinfo *info)
{
	struct proc_lock lock = {0};
	int64_t pid;

	skip_word(t); /* number */
	if (!take_lock_kind(t, &lock.kind))
		return false;
	skip_word(t); /* ADVISORY */
	lock.write = t->p < t->end && *t->p == 'W';
	skip_word(t); /* READ, WRITE, UNLCK */
	if (!text_signed(t, &pid) || pid > INT_MAX)
		return false;
	lock.pid = pid > 0 ? (int)pid : 0; /* -1: not known */
	text_skip_blanks(t);
	skip_word(t); /* device and inode */
	if (!text_field(t, 10, &lock.start))
		return false;
	text_skip_blanks(t);
	if (text_prefix(t, "EOF"))
		lock.end = UINT64_MAX;
	else if (!text_field(t, 10, &lock.end))
		return false;
	if (info->n_locks < PROC_MAX_LOCKS)
		info->locks[info->n_locks] = lock;
	info->n_locks++;
	return true;
}

static bool take_fdinfo(struct text *t, struct proc_fdinfo *info, unsigned *seen)
{
	uint64_t value;
	int64_t number;

	if (text_prefix(t, "pos:")) {
		*seen |= 1;
		if (!text_signed(t, &number))
			return false;
		info->pos = (uint64_t)number;
	} else if (text_prefix(t, "flags:")) {
		*seen |= 2;
		if (!text_field(t, 8, &value) || value > UINT32_MAX)
			return false;
		info->flags = (uint32_t)value;
	} else if (text_prefix(t, "mnt_id:")) {
		return text_field(t, 10, &info->mnt_id);
	} else if (text_prefix(t, "ino:")) {
		return text_field(t, 10, &info->ino);
	} else if (text_prefix(t, "eventfd-count:")) {
		info->has_eventfd = true;
		return text_field(t, 16, &info->eventfd_count);
	} else if (text_prefix(t, "sigmask:")) {
		info->has_signalfd = true;
		return text_field(t, 16, &info->signalfd_mask);
	} else if (text_prefix(t, "Pid:")) {
		info->has_pidfd = true;
		if (!text_signed(t, &number) || number < -1 || number > INT32_MAX)
			return false;
		info->pidfd_pid = (pid_t)number;
	} else if (text_prefix(t, "tfd:")) {
		info->has_epoll = true;
	} else if (text_prefix(t, "inotify ")) {
		info->has_inotify = true;
	} else if (text_prefix(t, "clockid:")) {
		info->has_timerfd = true;
	} else if (text_prefix(t, "eventfd-semaphore:")) {
		if (!text_field(t, 10, &value))
			return false;
		info->eventfd_semaphore = value != 0;
	} else if (text_prefix(t, "lock:")) {
		info->has_lock = true;
		return take_lock(t, info);
	}
	return true;
}

int proc_parse_fdinfo(const char *text, struct proc_fdinfo *ret, struct err *err)
{
	struct proc_fdinfo info = {0};
	unsigned seen = 0;
	struct text line;

	while (text_next_line(&text, &line)) {
		const char *start = line.p;

		if (!take_fdinfo(&line, &info, &seen))
			return text_corrupt(err, "fdinfo", start);
	}
	if (seen != 3)
		return err_set(err, ERR_CORRUPT, "fdinfo: the lines pos or flags are missing");
	*ret = info;
	return 0;
}

int proc_read_fdinfo(pid_t pid, int fd, struct proc_fdinfo *ret, struct err *err)
{
	cleanup_free char *text = NULL;

	if (text_read(&text, err, "/proc/%d/fdinfo/%d", (int)pid, fd) < 0)
		return -1;
	if (proc_parse_fdinfo(text, ret, err) < 0)
		return err_wrap(err, "process %d, fd %d", (int)pid, fd);
	return 0;
}

/* ---- timers -------------------------------------------------------------------------------- */

/* "notify: signal/pid.2634" (fs/proc/base.c, show_timer) */
static bool take_notify(struct text *t, struct proc_timer *timer)
{
	uint64_t target;

	text_skip_blanks(t);
	if (text_prefix(t, "signal/"))
		timer->notify = SIGEV_SIGNAL;
	else if (text_prefix(t, "none/"))
		timer->notify = SIGEV_NONE;
	else if (text_prefix(t, "thread/"))
		timer->notify = SIGEV_THREAD;
	else
		return false;
	if (text_prefix(t, "tid."))
		timer->notify |= SIGEV_THREAD_ID;
	else if (!text_prefix(t, "pid."))
		return false;
	if (!text_number(t, 10, &target) || target > INT32_MAX)
		return false;
	timer->target = (pid_t)target;
	return true;
}

static bool take_timer_line(struct text *t, struct proc_timer *timer)
{
	int64_t number;

	if (text_prefix(t, "signal:")) {
		if (!text_signed(t, &number) || number < 0 || number > 64 || !text_char(t, '/'))
			return false;
		timer->signal = (int)number;
		text_prefix(t, "0x");
		return text_number(t, 16, &timer->sigev_value);
	}
	if (text_prefix(t, "notify:"))
		return take_notify(t, timer);
	if (text_prefix(t, "ClockID:")) {
		/* Negative: the CPU clock of a process or thread. */
		if (!text_signed(t, &number) || number < INT_MIN || number > INT_MAX)
			return false;
		timer->clock = (int)number;
	}
	return true;
}

static int add_timer(struct proc_timer **timers, size_t *n, struct text *t, const char *start,
		     struct err *err)
{
	struct proc_timer *more;
	uint64_t id;

	if (!text_field(t, 10, &id) || id > INT_MAX)
		return text_corrupt(err, "timers", start);
	if (!(more = reallocarray(*timers, *n + 1, sizeof(*more))))
		return err_sys(err, "timers");
	*timers = more;
	more[(*n)++] = (struct proc_timer){.id = (int)id};
	return 0;
}

int proc_parse_timers(const char *text, struct proc_timer **ret, size_t *ret_n, struct err *err)
{
	cleanup_free struct proc_timer *timers = NULL;
	struct text line;
	size_t n = 0;

	while (text_next_line(&text, &line)) {
		const char *start = line.p;

		if (text_prefix(&line, "ID:")) {
			if (add_timer(&timers, &n, &line, start, err) < 0)
				return -1;
		} else if (n == 0 || !take_timer_line(&line, &timers[n - 1])) {
			return text_corrupt(err, "timers", start);
		}
	}
	*ret = steal_ptr(&timers);
	*ret_n = n;
	return 0;
}

int proc_read_timers(pid_t pid, struct proc_timer **ret, size_t *ret_n, struct err *err)
{
	cleanup_free char *text = NULL;

	if (text_read(&text, err, "/proc/%d/timers", (int)pid) < 0) {
		if (err->sys_errno == ENOENT && kill(pid, 0) == 0)
			err_set(err, ERR_UNSUPPORTED,
				"this kernel does not show timers (CONFIG_CHECKPOINT_RESTORE is "
				"off)");
		return -1;
	}
	if (proc_parse_timers(text, ret, ret_n, err) < 0)
		return err_wrap(err, "process %d", (int)pid);
	return 0;
}

/* ---- directories, sched -------------------------------------------------------------------- */

static int compare_ints(const void *a, const void *b)
{
	int x = *(const int *)a, y = *(const int *)b;

	return x < y ? -1 : x > y;
}

static int collect_numbers(DIR *dir, const char *path, int **list, size_t *ret_n, struct err *err)
{
	struct dirent *entry;
	size_t n = 0, room = 0;

	while ((errno = 0, entry = readdir(dir))) {
		struct text t = {entry->d_name, entry->d_name + strlen(entry->d_name)};
		uint64_t value;

		if (!text_number(&t, 10, &value) || t.p != t.end || value > INT_MAX)
			continue;
		if (n == room) {
			int *more;

			room = room ? room * 2 : 32;
			if (!(more = reallocarray(*list, room, sizeof(*more))))
				return err_sys(err, "%s", path);
			*list = more;
		}
		(*list)[n++] = (int)value;
	}
	if (errno)
		return err_sys(err, "cannot read %s", path);
	*ret_n = n;
	return 0;
}

int proc_list_numbers(pid_t pid, const char *sub, int **ret, size_t *ret_n, struct err *err)
{
	cleanup_free int *list = NULL;
	cleanup_dir DIR *dir = NULL;
	char path[128];
	size_t n = 0;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, sub);
	dir = opendir(path);
	if (!dir || collect_numbers(dir, path, &list, &n, err) < 0) {
		if (!dir)
			err_sys(err, "cannot open %s", path);
		if (err->sys_errno == ENOENT || err->sys_errno == ESRCH)
			err->kind = ERR_GONE;
		return -1;
	}
	if (n)
		qsort(list, n, sizeof(*list), compare_ints);
	*ret = steal_ptr(&list);
	*ret_n = n;
	return 0;
}

uint64_t proc_parse_exec_start(const char *text)
{
	struct text line;

	while (text_next_line(&text, &line)) {
		uint64_t ms, ns = 0;

		if (!text_prefix(&line, "se.exec_start"))
			continue;
		text_skip_blanks(&line);
		if (!text_char(&line, ':') || !text_field(&line, 10, &ms))
			return 0;
		/* Milliseconds with six decimals (kernel/sched/debug.c, SPLIT_NS). */
		if (text_char(&line, '.') && (!text_number(&line, 10, &ns) || ns > 999999))
			return 0;
		return ms > UINT64_MAX / 1000000 - 1 ? 0 : ms * 1000000 + ns;
	}
	return 0;
}
