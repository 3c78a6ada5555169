/*
 * core_dump.h: that a process dumped core is told to its parent with its end (WCOREDUMP), and the kernel says so only
 * of one that has: a zombie that is made again dumps once more, its registers alone, into a directory that is
 * removed at once. Private to recovery/.
 */
#ifndef PAWL_RECOVERY_CORE_DUMP_H
#define PAWL_RECOVERY_CORE_DUMP_H

#include "recovery/rebuild.h"

struct core_dump { /* starts as {0} */
	char dir[64];
	bool ready; /* it will dump when it dies */
};

/* Where core files go elsewhere on this machine (to a program, or to a directory of its own), none is written. */
int core_prepare(struct stub *stub, struct core_dump *ret, struct err *err);
void core_remove(struct core_dump *core);

#endif
