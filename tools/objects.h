/*
 * objects.h: every object that a job holds, and what becomes of it: the list of `show --objects`
 * and `doctor PID`. Drawn from a model, which the collector has filled, and from what it has
 * refused: nothing here decides what is supported.
 */
#ifndef PAWL_TOOLS_OBJECTS_H
#define PAWL_TOOLS_OBJECTS_H

#include <jansson.h>

#include "checkpointer/refusals.h"
#include "store/snapshot.h"

enum object_state {
	OBJECT_RESTORED, /* comes back as it was */
	OBJECT_SAVED,	 /* comes back, but not quite as it was: the text says how */
	OBJECT_REFUSED,	 /* while there is such an object, there is no snapshot */
};

struct object {
	enum object_state state;
	int pid;	/* 0: of the job as a whole */
	int fd;		/* -1: not a descriptor */
	char where[32]; /* "fd 3", "memory", "0x7f…", "threads" */
	char *text;	/* owned */
};

struct object_list {
	struct object *list;
	size_t n, room;
};

/* By process, in the model's order. refusals: may be NULL. */
int objects_list(struct object_list *ret, const Snap__Snapshot *model,
		 const struct refusals *refusals, struct err *err);
void objects_clear(struct object_list *objects);
size_t objects_refused(const struct object_list *objects);

void objects_print(const struct object_list *objects, const Snap__Snapshot *model);
json_t *objects_json(const struct object_list *objects);

/* "process 12 (name): fd 3: rest" into its parts, where it is of that form; *ret_rest points into
 * text. Pure. */
void objects_parse_refusal(const char *text, int *ret_pid, int *ret_fd, const char **ret_rest);

#endif
