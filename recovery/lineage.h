/*
 * lineage.h: who brings whom into the world, so that every process gets the parent, session and
 * process group it had. Pure.
 *
 * A session is inherited at birth or founded (setsid(2)), a group is joined within the session, and
 * an orphan becomes a child of the nearest subreaper or of init. Where those who lived in between
 * have died (the leader of a session or a group, the one that forked an orphan), helpers take their
 * places: empty processes, under the old pid where a session or a group bears it, that end as soon
 * as everybody is placed.
 */
#ifndef PAWL_RECOVERY_LINEAGE_H
#define PAWL_RECOVERY_LINEAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/snapshot.h"

#define LINEAGE_INIT SIZE_MAX /* the capsule's init, where a member is meant */

struct birth {
	size_t by;     /* the member that forks it */
	size_t parent; /* of a process: whose child it is in the end */
	bool early; /* before `by` founds its session: it is born into the one `by` was born into */
	bool sibling;	/* as a child of its maker's parent (CLONE_PARENT) */
	uint64_t share; /* CLONE_VM, CLONE_FILES, CLONE_FS, CLONE_SIGHAND: kept in common with `by`
			 */
	size_t heir;	/* of a helper: who takes its children in when it ends */
};

/* Members are the processes of the model, in its order, then the helpers. */
struct lineage {
	struct birth *births;
	Snap__Process **helpers; /* of which only pid, pgid and sid are set */
	size_t n_model, n_helpers, room;
};

/* What is to be done, in this order, all with one member each. */
enum lineage_act {
	LINEAGE_SPAWN,	 /* is born, as births[] says */
	LINEAGE_SESSION, /* founds its session */
	LINEAGE_FOUND,	 /* founds a process group of its own */
	LINEAGE_JOIN,	 /* joins its process group */
	LINEAGE_END,	 /* a helper ends, a zombie gets its exit status */
};

typedef int lineage_visit(void *ctx, enum lineage_act act, size_t member, struct err *err);

/* ERR_CORRUPT: the ids contradict each other; ERR_UNSUPPORTED: no order of forks leads there. Both
 * name the process. Zeroed on failure. */
int lineage_make(struct lineage *ret, const Snap__Snapshot *model, struct err *err);
void lineage_clear(struct lineage *l);
/* Calls visit for every act until one fails. */
int lineage_walk(const struct lineage *l, const Snap__Snapshot *model, lineage_visit *visit,
		 void *ctx, struct err *err);

const Snap__Process *lineage_member(const struct lineage *l, const Snap__Snapshot *model, size_t i);

#endif
