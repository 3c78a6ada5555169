#include "checkpointer/map_notes.h"

#include <stdlib.h>
#include <string.h>

#include "store/base/log.h"
#include "store/base/search.h"

/* Set and cleared by the tracker and the kernel: no part of what the job has asked for. */
#define NOT_THE_JOBS (VMF_UFFD_WP | VMF_SOFTDIRTY)

/* ---- comparing ----------------------------------------------------------------------------- */

/* Whether one may be what has become of the other: a mapping that grew, shrank or was split. */
static bool same_kind(const struct proc_map *a, const struct proc_map *b)
{
	return a->prot == b->prot && a->shared == b->shared && a->inode == b->inode &&
	       a->dev_major == b->dev_major && a->dev_minor == b->dev_minor &&
	       strcmp(a->name, b->name) == 0 &&
	       (a->inode == 0 || a->offset - a->start == b->offset - b->start);
}

/* The first mapping of ascending `list` that ends behind `at`. */
static size_t first_behind(const struct map_list *list, uint64_t at)
{
	return COUNT_BEFORE(list->n, i, list->maps[i].end <= at);
}

static bool same_flags(const struct proc_map *a, const struct proc_map *b)
{
	return ((a->vm_flags ^ b->vm_flags) & ~(uint64_t)NOT_THE_JOBS) == 0 &&
	       a->protection_key == b->protection_key;
}

/* The mapping of list that `map` has come from, NULL: there is none, or they are several that
 * differ. */
static const struct proc_map *origin(const struct map_list *list, const struct proc_map *map)
{
	const struct proc_map *found = NULL;

	for (size_t i = first_behind(list, map->start);
	     i < list->n && list->maps[i].start < map->end; i++) {
		const struct proc_map *m = &list->maps[i];

		if (!same_kind(m, map) || (found && !same_flags(m, found)))
			return NULL;
		found = m;
	}
	return found;
}

bool map_flags_copy(const struct map_list *from, struct map_list *to, uint64_t ours,
		    uint64_t ours_end)
{
	for (size_t i = 0; i < to->n; i++) {
		struct proc_map *map = &to->maps[i];
		const struct proc_map *m = origin(from, map);

		if (!m && (map->start < ours || map->end > ours_end))
			return false;
		if (!m)
			continue;
		map->vm_flags = m->vm_flags;
		map->protection_key = m->protection_key;
		map->kernel_page_size = m->kernel_page_size;
	}
	return true;
}

bool map_flags_agree(const struct map_list *a, const struct map_list *b)
{
	for (size_t i = 0; i < a->n; i++) {
		const struct proc_map *m = &a->maps[i];

		for (size_t k = first_behind(b, m->start); k < b->n && b->maps[k].start < m->end;
		     k++)
			if (same_kind(m, &b->maps[k]) && !same_flags(m, &b->maps[k]))
				return false;
	}
	return true;
}

/* ---- notes --------------------------------------------------------------------------------- */

static int read_list(struct map_list *ret, pid_t pid, bool flags, struct err *err)
{
	return proc_read_maps(pid, flags, &ret->maps, &ret->n, err);
}

static void clear_list(struct map_list *list)
{
	proc_maps_free(list->maps, list->n);
	*list = (struct map_list){0};
}

static struct map_note *find_note(const struct map_notes *notes, pid_t pid)
{
	for (size_t i = 0; i < notes->n; i++)
		if (notes->list[i].pid == pid)
			return &notes->list[i];
	return NULL;
}

static struct map_note *add_note(struct map_notes *notes, pid_t pid, struct err *err)
{
	struct map_note *more = reallocarray(notes->list, notes->n + 1, sizeof(*more));

	if (!more) {
		err_sys(err, "notes of mappings");
		return NULL;
	}
	notes->list = more;
	more[notes->n] = (struct map_note){.pid = pid};
	return &more[notes->n++];
}

/* The mappings as they are now, with the flags that were seen after the last snapshot. */
static bool know_already(const struct map_notes *last, pid_t pid, struct map_list *ret)
{
	const struct map_note *note = last ? find_note(last, pid) : NULL;
	struct err ignored;

	if (!note || read_list(ret, pid, false, &ignored) < 0)
		return false;
	if (map_flags_copy(&note->after, ret, 0, 0))
		return true;
	clear_list(ret);
	return false;
}

int map_notes_take(struct map_notes *notes, const struct map_notes *last, pid_t pid, struct err *err)
{
	struct map_list before;
	struct map_note *note;
	bool old = know_already(last, pid, &before);

	if (!old && read_list(&before, pid, true, err) < 0)
		return err->kind == ERR_GONE || err->kind == ERR_NOT_FOUND ? 0 : -1;
	note = find_note(notes, pid);
	if (!note)
		note = add_note(notes, pid, err);
	if (!note) {
		clear_list(&before);
		return -1;
	}
	clear_list(&note->before);
	note->before = before;
	note->old = old;
	return 0;
}

/* Whether memory mapped from now on is locked too (MCL_FUTURE) shows at the executor's mapping
 * alone, which was not there before. */
static bool locks_memory(const struct map_list *list)
{
	for (size_t i = 0; i < list->n; i++)
		if (list->maps[i].vm_flags & VMF_LOCKED)
			return true;
	return false;
}

int map_notes_read(struct map_notes *notes, pid_t pid, uint64_t ours, uint64_t ours_end,
		   const struct map_list **ret, struct err *err)
{
	struct map_note *note = find_note(notes, pid);

	if (!note && !(note = add_note(notes, pid, err)))
		return -1;
	clear_list(&note->paused);
	*ret = &note->paused;
	if (note->before.n > 0) {
		if (read_list(&note->paused, pid, false, err) < 0)
			return -1;
		note->used = !locks_memory(&note->before) &&
			     map_flags_copy(&note->before, &note->paused, ours, ours_end);
		if (note->used)
			return 0;
		clear_list(&note->paused);
	}
	return read_list(&note->paused, pid, true, err);
}

bool map_notes_hold(struct map_notes *notes)
{
	bool hold = true;

	for (size_t i = 0; hold && i < notes->n; i++) {
		struct map_note *note = &notes->list[i];
		struct err ignored; /* it has ended: nobody changes its flags any more, or tells
				       them */

		clear_list(&note->after);
		if (!note->used || read_list(&note->after, note->pid, true, &ignored) < 0)
			continue;
		hold = map_flags_agree(&note->paused, &note->after);
		if (!hold)
			log_debug("process %d (host) has changed the advice of its mappings "
				  "meanwhile",
				  note->pid);
	}
	return hold;
}

bool map_notes_are_old(const struct map_notes *notes)
{
	for (size_t i = 0; i < notes->n; i++)
		if (notes->list[i].old)
			return true;
	return false;
}

void map_notes_pass(struct map_notes *from, struct map_notes *to)
{
	map_notes_free(to);
	*to = *from;
	*from = (struct map_notes){0};
	for (size_t i = 0; i < to->n; i++) {
		clear_list(&to->list[i].before);
		clear_list(&to->list[i].paused);
	}
}

void map_notes_free(struct map_notes *notes)
{
	for (size_t i = 0; i < notes->n; i++) {
		clear_list(&notes->list[i].before);
		clear_list(&notes->list[i].paused);
		clear_list(&notes->list[i].after);
	}
	free(notes->list);
	*notes = (struct map_notes){0};
}
