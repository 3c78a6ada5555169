#include "checkpointer/tracee/procfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "checkpointer/tracee/procfs_text.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"

/* ---- stat ---------------------------------------------------------------------------------- */

/* Fields of /proc/PID/stat by their number in proc(5), from the 4th on. Kept as 64-bit values: the
 * kernel prints some of them as signed, text_any takes both. */
#define STAT_FIRST 4
#define STAT_LAST  52

static bool text_any(struct text *t, uint64_t *ret)
{
	int64_t value;

	text_skip_blanks(t);
	if (t->p < t->end && *t->p == '-') {
		if (!text_signed(t, &value))
			return false;
		*ret = (uint64_t)value;
		return true;
	}
	return text_number(t, 10, ret);
}

static void fill_stat(struct proc_stat *s, const uint64_t *field)
{
	s->ppid = (pid_t)field[4];
	s->pgid = (pid_t)field[5];
	s->sid = (pid_t)field[6];
	s->tty_nr = (int)field[7];
	s->tpgid = (int)field[8];
	s->flags = (uint32_t)field[9];
	s->nice = (long)field[19];
	s->num_threads = (long)field[20];
	s->start_time = field[22];
	s->start_code = field[26];
	s->end_code = field[27];
	s->start_stack = field[28];
	s->exit_signal = (int)field[38];
	s->rt_priority = (unsigned)field[40];
	s->policy = (unsigned)field[41];
	s->processor = (int)field[39];
	s->start_data = field[45];
	s->end_data = field[46];
	s->start_brk = field[47];
	s->arg_start = field[48];
	s->arg_end = field[49];
	s->env_start = field[50];
	s->env_end = field[51];
	s->exit_code = (int)field[52];
}

int proc_parse_stat(const char *text, struct proc_stat *ret, struct err *err)
{
	struct text t = {text, text + strlen(text)};
	struct proc_stat stat = {0};
	uint64_t field[STAT_LAST + 1] = {0};
	uint64_t pid;
	const char *close, *open;

	if (!text_number(&t, 10, &pid) || pid > INT32_MAX || !text_prefix(&t, " ("))
		return text_corrupt(err, "stat", text);
	open = t.p;
	/* The name may hold ") S 1": only the last parenthesis closes it. */
	close = memrchr(open, ')', (size_t)(t.end - open));
	if (!close || t.end - close < 4 || close[1] != ' ')
		return text_corrupt(err, "stat", text);
	snprintf(stat.comm, sizeof(stat.comm), "%.*s", (int)(close - open < 63 ? close - open : 63),
		 open);
	stat.pid = (pid_t)pid;
	stat.state = close[2];
	t.p = close + 3;
	for (unsigned i = STAT_FIRST; i <= STAT_LAST; i++)
		if (!text_any(&t, &field[i]))
			return text_corrupt(err, "stat", text);
	fill_stat(&stat, field);
	*ret = stat;
	return 0;
}

int proc_read_stat(pid_t pid, pid_t tid, struct proc_stat *ret, struct err *err)
{
	cleanup_free char *text = NULL;

	if (tid ? text_read(&text, err, "/proc/%d/task/%d/stat", (int)pid, (int)tid) < 0
		: text_read(&text, err, "/proc/%d/stat", (int)pid) < 0)
		return -1;
	if (proc_parse_stat(text, ret, err) < 0)
		return err_wrap(err, "process %d", (int)pid);
	return 0;
}

/* ---- status -------------------------------------------------------------------------------- */

enum status_kind {
	S_NAME,
	S_STATE,
	S_PID,
	S_U32_OCTAL,
	S_IDS,
	S_GROUPS,
	S_LAST_PID,
	S_HEX,
	S_BOOL,
	S_INT,
	S_LONG
};

struct status_line {
	const char *name;
	enum status_kind kind;
	size_t offset;
};

#define AT(member) offsetof(struct proc_status, member)
static const struct status_line status_lines[] = {
	{"Name:", S_NAME, AT(name)},
	{"Umask:", S_U32_OCTAL, AT(umask)},
	{"State:", S_STATE, AT(state)},
	{"Tgid:", S_PID, AT(tgid)},
	{"Pid:", S_PID, AT(pid)},
	{"PPid:", S_PID, AT(ppid)},
	{"TracerPid:", S_PID, AT(tracer)},
	{"Uid:", S_IDS, AT(uid)},
	{"Gid:", S_IDS, AT(gid)},
	{"Groups:", S_GROUPS, 0},
	{"NSpid:", S_LAST_PID, AT(ns_pid)},
	{"NSpgid:", S_LAST_PID, AT(ns_pgid)},
	{"NSsid:", S_LAST_PID, AT(ns_sid)},
	{"THP_enabled:", S_BOOL, AT(thp_enabled)},
	{"Threads:", S_LONG, AT(threads)},
	{"SigPnd:", S_HEX, AT(sig_pending)},
	{"ShdPnd:", S_HEX, AT(shared_pending)},
	{"SigBlk:", S_HEX, AT(blocked)},
	{"SigIgn:", S_HEX, AT(ignored)},
	{"SigCgt:", S_HEX, AT(caught)},
	{"CapInh:", S_HEX, AT(cap_inh)},
	{"CapPrm:", S_HEX, AT(cap_prm)},
	{"CapEff:", S_HEX, AT(cap_eff)},
	{"CapBnd:", S_HEX, AT(cap_bnd)},
	{"CapAmb:", S_HEX, AT(cap_amb)},
	{"NoNewPrivs:", S_BOOL, AT(no_new_privs)},
	{"Seccomp:", S_INT, AT(seccomp)},
};
#undef AT

static bool take_ids(struct text *t, uint32_t *ids)
{
	for (int i = 0; i < 4; i++) {
		uint64_t value;

		if (!text_field(t, 10, &value) || value > UINT32_MAX)
			return false;
		ids[i] = (uint32_t)value;
	}
	return true;
}

static bool take_groups(struct text *t, struct proc_status *s)
{
	size_t room = s->n_groups;

	for (;;) {
		uint64_t value;

		text_skip_blanks(t);
		if (t->p == t->end)
			return true;
		if (!text_number(t, 10, &value) || value > UINT32_MAX)
			return false;
		if (s->n_groups == room) {
			uint32_t *more;

			room = room ? room * 2 : 32;
			if (!(more = reallocarray(s->groups, room, sizeof(*more))))
				return false;
			s->groups = more;
		}
		s->groups[s->n_groups++] = (uint32_t)value;
	}
}

/* One number a pid namespace, from the reader's to the innermost. */
static bool take_last_pid(struct text *t, pid_t *ret)
{
	uint64_t value;
	bool any = false;

	for (;;) {
		text_skip_blanks(t);
		if (t->p == t->end)
			return any;
		if (!text_number(t, 10, &value) || value > INT32_MAX)
			return false;
		*ret = (pid_t)value;
		any = true;
	}
}

static bool take_bounded(struct text *t, unsigned base, uint64_t most, uint64_t *ret)
{
	return text_field(t, base, ret) && *ret <= most;
}

static bool take_status(struct text *t, const struct status_line *line, struct proc_status *s)
{
	void *to = (char *)s + line->offset;
	uint64_t value;

	switch (line->kind) {
	case S_NAME:
		text_char(t, '\t');
		text_unescape_comm(t->p, t->end, s->name, sizeof(s->name));
		return true;
	case S_STATE:
		text_skip_blanks(t);
		s->state = t->p < t->end ? *t->p : '\0';
		return s->state != '\0';
	case S_IDS:
		return take_ids(t, to);
	case S_GROUPS:
		return take_groups(t, s);
	case S_LAST_PID:
		return take_last_pid(t, to);
	case S_HEX:
		return text_field(t, 16, to);
	case S_PID:
	case S_INT:
		if (!take_bounded(t, 10, INT32_MAX, &value))
			return false;
		*(int *)to = (int)value;
		return true;
	case S_U32_OCTAL:
		if (!take_bounded(t, 8, UINT32_MAX, &value))
			return false;
		*(uint32_t *)to = (uint32_t)value;
		return true;
	case S_LONG:
		if (!take_bounded(t, 10, INT64_MAX, &value))
			return false;
		*(long *)to = (long)value;
		return true;
	case S_BOOL:
		if (!take_bounded(t, 10, UINT64_MAX, &value))
			return false;
		*(bool *)to = value != 0;
		return true;
	}
	return false;
}

/* Lines come in a fixed order, so the search goes on from the last one found. */
static const struct status_line *find_line(struct text *t, size_t *hint)
{
	const size_t n = sizeof(status_lines) / sizeof(status_lines[0]);

	for (size_t i = 0; i < n; i++) {
		const struct status_line *line = &status_lines[(*hint + i) % n];

		/* Most lines are of no interest, and thousands of these texts are read in a pause. */
		if (t->p < t->end && *t->p == *line->name && text_prefix(t, line->name)) {
			*hint = (size_t)(line - status_lines) + 1;
			return line;
		}
	}
	return NULL;
}

int proc_parse_status(const char *text, struct proc_status *ret, struct err *err)
{
	/* THP_enabled came with Linux 5.0; before it nothing could be disabled unseen. */
	struct proc_status status = {.thp_enabled = true};
	struct text line;
	size_t hint = 0;

	while (text_next_line(&text, &line)) {
		const char *start = line.p;
		const struct status_line *known = find_line(&line, &hint);

		if (known && !take_status(&line, known, &status)) {
			text_corrupt(err, "status", start);
			goto fail;
		}
	}
	if (status.pid == 0 || status.tgid == 0 || status.state == '\0') {
		err_set(err, ERR_CORRUPT, "status: the lines Tgid, Pid or State are missing");
		goto fail;
	}
	*ret = status;
	return 0;
fail:
	proc_status_clear(&status);
	return -1;
}

void proc_status_clear(struct proc_status *status)
{
	free(status->groups);
	status->groups = NULL;
	status->n_groups = 0;
}

int proc_open_task_dir(pid_t pid)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

int proc_read_thread_status(int task_dir, pid_t tid, struct proc_status *ret, struct err *err)
{
	cleanup_free char *text = NULL;
	char path[32];

	snprintf(path, sizeof(path), "%d/status", (int)tid);
	if (read_text(task_dir, path, &text, NULL, err) < 0) {
		if (err->sys_errno == ENOENT || err->sys_errno == ESRCH)
			err->kind = ERR_GONE;
		return -1;
	}
	return proc_parse_status(text, ret, err) < 0 ? err_wrap(err, "thread %d", (int)tid) : 0;
}

int proc_read_status(pid_t pid, pid_t tid, struct proc_status *ret, struct err *err)
{
	cleanup_free char *text = NULL;

	if (tid ? text_read(&text, err, "/proc/%d/task/%d/status", (int)pid, (int)tid) < 0
		: text_read(&text, err, "/proc/%d/status", (int)pid) < 0)
		return -1;
	if (proc_parse_status(text, ret, err) < 0)
		return err_wrap(err, "process %d", (int)pid);
	return 0;
}

bool proc_is_kernel_thread(pid_t pid, pid_t tid)
{
	struct proc_stat stat;
	struct err ignored;

	return proc_read_stat(pid, tid, &stat, &ignored) == 0 &&
	       stat.flags & (PROC_PF_IO_WORKER | PROC_PF_KTHREAD);
}
