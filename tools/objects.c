#include "tools/objects.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "store/base/cleanup.h"
#include "store/base/units.h"
#include "tools/report.h"

static const char *const states[] = {
	[OBJECT_RESTORED] = "restored",
	[OBJECT_SAVED] = "saved",
	[OBJECT_REFUSED] = "refused",
};

static int add(struct object_list *l, enum object_state state, int pid, int fd, const char *where,
	       char *text, struct err *err)
{
	struct object *more;

	if (l->n == l->room) {
		size_t room = l->room ? l->room * 2 : 64;

		more = reallocarray(l->list, room, sizeof(*more));
		if (!more)
			text = (free(text), NULL);
		else
			l->room = room, l->list = more;
	}
	if (!text)
		return err_sys(err, "list of objects");
	l->list[l->n] = (struct object){.state = state, .pid = pid, .fd = fd, .text = text};
	snprintf(l->list[l->n++].where, sizeof(l->list[0].where), "%s", where);
	return 0;
}

__attribute__((format(printf, 1, 2))) static char *text_of(const char *fmt, ...)
{
	char *text;
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vasprintf(&text, fmt, ap);
	va_end(ap);
	return len < 0 ? NULL : text;
}

void objects_clear(struct object_list *objects)
{
	for (size_t i = 0; i < objects->n; i++)
		free(objects->list[i].text);
	free(objects->list);
	*objects = (struct object_list){0};
}

size_t objects_refused(const struct object_list *objects)
{
	size_t n = 0;

	for (size_t i = 0; i < objects->n; i++)
		n += objects->list[i].state == OBJECT_REFUSED;
	return n;
}

/* ---- descriptors --------------------------------------------------------------------------- */

/* The schema's name of the kind, as a word: what a newer collector may add is named too. */
static void kind_name(Snap__OpenFile__Kind kind, char *buf, size_t len)
{
	const ProtobufCEnumValue *value =
		protobuf_c_enum_descriptor_get_value(&snap__open_file__kind__descriptor, kind);

	snprintf(buf, len, "%s", value ? value->name : "unknown object");
	for (char *c = buf; *c; c++)
		*c = *c == '_' ? ' ' : (char)(*c >= 'A' && *c <= 'Z' ? *c - 'A' + 'a' : *c);
}

static char *describe_file(const Snap__File *f, enum object_state *ret_state)
{
	const char *path = f->path && *f->path ? f->path : "(no name)";

	*ret_state =
		f->policy == SNAP__FILE__POLICY__LEAVE || f->policy == SNAP__FILE__POLICY__TRUNCATE
			? OBJECT_SAVED
			: OBJECT_RESTORED;
	if (f->deleted)
		return text_of("%s, which has no path (any more)", path);
	switch (f->policy) {
	case SNAP__FILE__POLICY__RESTORE:
		return text_of("%s, put back with its content", path);
	case SNAP__FILE__POLICY__TRUNCATE:
		return text_of("%s, cut back to its size", path);
	case SNAP__FILE__POLICY__LEAVE:
		return text_of("%s, left as it is found", path);
	default:
		return text_of("%s", path);
	}
}

static char *describe_open_file(const Snap__Snapshot *m, const Snap__OpenFile *o,
				enum object_state *ret_state)
{
	static const char *const streams[] = {"input", "output", "error"};
	char kind[48];

	*ret_state = OBJECT_RESTORED;
	kind_name(o->kind, kind, sizeof(kind));
	switch (o->kind) {
	case SNAP__OPEN_FILE__KIND__STREAM:
		*ret_state = OBJECT_SAVED;
		return text_of("standard %s: connected to pawl's own",
			       streams[(unsigned)o->stream < 3 ? o->stream : 0]);
	case SNAP__OPEN_FILE__KIND__TERMINAL:
		*ret_state = OBJECT_SAVED;
		return text_of("terminal: a pseudo-terminal, connected to pawl's own");
	case SNAP__OPEN_FILE__KIND__PIPE:
	case SNAP__OPEN_FILE__KIND__SOCKET:
		if (!o->hung_up)
			return text_of("%s %" PRIu64 ", %zu bytes unread", kind, o->object,
				       o->queue.len);
		*ret_state = OBJECT_SAVED;
		return text_of("%s %" PRIu64
			       ", whose other end is closed or outside the job: comes back "
			       "closed there",
			       kind, o->object);
	default:
		break;
	}
	if (o->file >= 0 && (size_t)o->file < m->n_files && o->kind == SNAP__OPEN_FILE__KIND__FILE)
		return describe_file(m->files[o->file], ret_state);
	if (o->file >= 0 && (size_t)o->file < m->n_files && m->files[o->file]->path)
		return text_of("%s %s", kind, m->files[o->file]->path);
	return text_of("%s", kind);
}

static int add_descriptors(struct object_list *l, const Snap__Snapshot *m, const Snap__Process *p,
			   struct err *err)
{
	for (size_t i = 0; i < p->n_fds; i++) {
		enum object_state state = OBJECT_RESTORED;
		char where[32];
		char *text;

		if (p->fds[i]->open_file < 0 || (size_t)p->fds[i]->open_file >= m->n_open_files)
			continue;
		text = describe_open_file(m, m->open_files[p->fds[i]->open_file], &state);
		snprintf(where, sizeof(where), "fd %d", p->fds[i]->number);
		if (add(l, state, p->pid, p->fds[i]->number, where, text, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- the rest of a process ----------------------------------------------------------------- */

static bool is_shared(const Snap__Region *r)
{
	return r->kind == SNAP__REGION__KIND__FILE_SHARED ||
	       r->kind == SNAP__REGION__KIND__SHARED_MEMORY ||
	       r->kind == SNAP__REGION__KIND__SYSV_SHM;
}

static int add_shared(struct object_list *l, const Snap__Snapshot *m, const Snap__Process *p,
		      const Snap__Region *r, struct err *err)
{
	bool known = r->file >= 0 && (size_t)r->file < m->n_files;
	char where[32], size[32];

	snprintf(where, sizeof(where), "%#" PRIx64, r->start);
	return add(l, OBJECT_RESTORED, p->pid, -1, where,
		   text_of("shared mapping of %s, %s", known ? m->files[r->file]->path : "memory",
			   format_size(r->end - r->start, size, sizeof(size))),
		   err);
}

static int add_memory(struct object_list *l, const Snap__Snapshot *m, const Snap__Process *p,
		      struct err *err)
{
	uint64_t bytes = 0;
	size_t n = 0;
	char size[32];

	for (size_t i = 0; i < p->n_regions; i++) {
		if (is_shared(p->regions[i])) {
			if (add_shared(l, m, p, p->regions[i], err) < 0)
				return -1;
			continue;
		}
		bytes += p->regions[i]->end - p->regions[i]->start;
		n++;
	}
	if (n == 0)
		return 0;
	return add(l, OBJECT_RESTORED, p->pid, -1, "memory",
		   text_of("%zu private regions, %s mapped", n,
			   format_size(bytes, size, sizeof(size))),
		   err);
}

static int add_count(struct object_list *l, const Snap__Process *p, const char *where, size_t n,
		     const char *what, struct err *err)
{
	if (n == 0)
		return 0;
	return add(l, OBJECT_RESTORED, p->pid, -1, where, text_of("%zu %s", n, what), err);
}

static size_t count_handlers(const Snap__Process *p)
{
	size_t n = 0;

	for (size_t i = 0; i < p->n_actions; i++)
		n += p->actions[i]->handler > 1;
	return n;
}

static size_t count_pending(const Snap__Process *p)
{
	size_t n = p->n_pending;

	for (size_t i = 0; i < p->n_threads; i++)
		n += p->threads[i]->n_pending;
	return n;
}

static size_t count_interval_timers(const Snap__Process *p)
{
	size_t n = 0;

	for (size_t i = 0; i < p->n_interval_timers; i++)
		n += p->interval_timers[i]->value != 0;
	return n;
}

static int add_process(struct object_list *l, const Snap__Snapshot *m, const Snap__Process *p,
		       struct err *err)
{
	if (p->zombie)
		return add(l, OBJECT_RESTORED, p->pid, -1, "process",
			   text_of("exit status, not collected"), err);
	if (add_descriptors(l, m, p, err) < 0 || add_memory(l, m, p, err) < 0 ||
	    add_count(l, p, "threads", p->n_threads, "with registers, masks and scheduling", err) <
		    0 ||
	    add_count(l, p, "signals", count_handlers(p), "handlers", err) < 0 ||
	    add_count(l, p, "signals", count_pending(p), "pending", err) < 0 ||
	    add_count(l, p, "timers", count_interval_timers(p), "interval timers", err) < 0 ||
	    add_count(l, p, "timers", p->n_posix_timers, "POSIX timers", err) < 0)
		return -1;
	return add_count(l, p, "locks", p->n_locks, "POSIX file locks", err);
}

/* ---- refusals ------------------------------------------------------------------------------ */

void objects_parse_refusal(const char *text, int *ret_pid, int *ret_fd, const char **ret_rest)
{
	int pid, fd, end = 0;
	const char *at;

	*ret_pid = 0;
	*ret_fd = -1;
	*ret_rest = text;
	if (sscanf(text, "process %d", &pid) != 1 || !(at = strstr(text, ": ")))
		return;
	*ret_pid = pid;
	*ret_rest = at + 2;
	if (sscanf(*ret_rest, "fd %d: %n", &fd, &end) == 1 && end > 0) {
		*ret_fd = fd;
		*ret_rest += end;
	}
}

static int add_refusals(struct object_list *l, const struct refusals *refusals, int pid,
			struct err *err)
{
	for (size_t i = 0; refusals && i < refusals->n; i++) {
		const char *rest;
		char where[32] = "";
		int of, fd;

		objects_parse_refusal(refusals->texts[i], &of, &fd, &rest);
		if (of != pid)
			continue;
		if (fd >= 0)
			snprintf(where, sizeof(where), "fd %d", fd);
		if (add(l, OBJECT_REFUSED, pid, fd, where, strdup(rest), err) < 0)
			return -1;
	}
	return 0;
}

static int fill(struct object_list *l, const Snap__Snapshot *m, const struct refusals *refusals,
		struct err *err)
{
	for (size_t i = 0; i < m->n_processes; i++)
		if (add_refusals(l, refusals, m->processes[i]->pid, err) < 0 ||
		    add_process(l, m, m->processes[i], err) < 0)
			return -1;
	return add_refusals(l, refusals, 0, err);
}

int objects_list(struct object_list *ret, const Snap__Snapshot *model,
		 const struct refusals *refusals, struct err *err)
{
	struct object_list list = {0};

	if (fill(&list, model, refusals, err) < 0) {
		objects_clear(&list);
		return -1;
	}
	*ret = list;
	return 0;
}

/* ---- printing ------------------------------------------------------------------------------ */

static const char *name_of(const Snap__Snapshot *m, int pid)
{
	for (size_t i = 0; i < m->n_processes; i++)
		if (m->processes[i]->pid == pid && m->processes[i]->n_threads)
			return m->processes[i]->threads[0]->comm;
	return NULL;
}

void objects_print(const struct object_list *objects, const Snap__Snapshot *model)
{
	int pid = -1;

	for (size_t i = 0; i < objects->n; i++) {
		const struct object *o = &objects->list[i];
		const char *name = name_of(model, o->pid);

		if (o->pid != pid && o->pid)
			printf("process %d%s%s%s\n", o->pid, name ? " (" : "", name ? name : "",
			       name ? ")" : "");
		else if (o->pid != pid)
			printf("the job\n");
		pid = o->pid;
		printf("  %-8s  %-14s  %s\n", states[o->state], o->where, o->text);
	}
}

json_t *objects_json(const struct object_list *objects)
{
	json_t *list = json_array();

	for (size_t i = 0; i < objects->n; i++) {
		const struct object *o = &objects->list[i];
		json_t *entry = json_object();

		json_object_set_new(entry, "state", json_string(states[o->state]));
		json_object_set_new(entry, "process", o->pid ? json_integer(o->pid) : json_null());
		json_object_set_new(entry, "fd", o->fd >= 0 ? json_integer(o->fd) : json_null());
		json_object_set_new(entry, "where", report_text(o->where));
		json_object_set_new(entry, "what", report_text(o->text));
		json_array_append_new(list, entry);
	}
	return list;
}
