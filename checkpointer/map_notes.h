/*
 * map_notes.h: the mappings of the job's processes, without a walk of their page tables in the
 * pause.
 *
 * What madvise(2), mlock(2) and their kin have set on a mapping is told by /proc/PID/smaps alone,
 * which also counts every page: 14 ms/GiB, while /proc/PID/maps costs microseconds. So the flags of
 * big processes are read before the pause, in the pause only maps, and after it the flags once
 * more. A mapping has one set of flags and only mappings with the same flags merge, so what
 * overlaps a mapping seen before has its flags, unless they were changed in between: then the two
 * readings differ and the snapshot is taken again, with the flags read in the pause.
 *
 * The reading after one snapshot serves as the one before the next, where all mappings are known by it. Where that
 * turns out to be too old, the snapshot is taken again with one of its own, and so are those to come.
 */
#ifndef PAWL_CHECKPOINTER_MAP_NOTES_H
#define PAWL_CHECKPOINTER_MAP_NOTES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "checkpointer/tracee/procfs.h"
#include "store/base/err.h"

struct map_list {
	struct proc_map *maps; /* ascending */
	size_t n;
};

struct map_notes {
	struct map_note {
		pid_t pid; /* host */
		struct map_list before, paused, after;
		bool old;  /* before is of the last snapshot */
		bool used; /* the flags of paused are those of before */
	} * list;
	size_t n;
};

/* Before the pause: notes the flags of a process. A process that is gone is not noted. last: of the last snapshot,
 * as map_notes_pass has left them; NULL: none, or they are not to be relied on. */
int map_notes_take(struct map_notes *notes, const struct map_notes *last, pid_t pid, struct err *err);
/* In the pause: its mappings with their flags; they belong to the notes, until the next call. Those
 * inside [ours, ours_end), which is not the job's, may be without. */
int map_notes_read(struct map_notes *notes, pid_t pid, uint64_t ours, uint64_t ours_end,
		   const struct map_list **ret, struct err *err);
/* After the pause, while the processes run: false where flags that were noted have been changed
 * since. */
bool map_notes_hold(struct map_notes *notes);
/* Whether some of them were of the last snapshot. */
bool map_notes_are_old(const struct map_notes *notes);
/* When they have held: for the next snapshot's map_notes_take. */
void map_notes_pass(struct map_notes *from, struct map_notes *to);
void map_notes_free(struct map_notes *notes);

/* The pure parts. Copies flags to the mappings of `to`; false: they cannot be told of one outside
 * [ours, ours_end). */
bool map_flags_copy(const struct map_list *from, struct map_list *to, uint64_t ours,
		    uint64_t ours_end);
/* Whether the flags of all mappings that are in both agree. */
bool map_flags_agree(const struct map_list *a, const struct map_list *b);

#endif
