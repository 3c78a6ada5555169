/* cmd_replicas.h: what `push` and `pull` share. */
#ifndef PAWL_TOOLS_CMD_REPLICAS_H
#define PAWL_TOOLS_CMD_REPLICAS_H

#include "store/replica/destination.h"
#include "tools/cli.h"

static inline void cleanup_destination_p(struct destination **d)
{
	destination_close(*d);
}
#define cleanup_destination __attribute__((cleanup(cleanup_destination_p)))

/* Draws how far it has come, where standard error is a terminal. */
extern const struct replica_watch transfer_watch;

/* Notes in the job's record what is at the destination; hold NULL: nothing was taken. */
int note_replica(struct store *store, struct destination *d, const char *job,
		 const struct replica_hold *hold, struct err *err);

/* Prints what was done, as text or JSON. */
void print_transfer(const char *verb, const char *job, const struct destination *d,
		    const struct replica_stats *stats, bool json);

#endif
