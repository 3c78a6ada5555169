/*
 * terminal.h: a pseudo-terminal as an object: its settings, and what has been written to one end and not read
 * from the other.
 *
 * The kernel has no way to look at a terminal's queues, so they are read empty and written again, which
 * nobody notices while all who have the terminal stand still. Both ends are open file descriptions that
 * may be the job's own: flags and settings are as before when a function returns.
 */
#ifndef PAWL_CHECKPOINTER_TRACEE_TERMINAL_H
#define PAWL_CHECKPOINTER_TRACEE_TERMINAL_H

#include "store/base/err.h"
#include "store/snapshot.h"

/* Fills what is particular to the terminal but not to the job: termios, sizes, discipline, packet, locked,
 * exclusive, stopped and the queues, which stay as they are. slave -1: it has never been opened. */
int terminal_read(int master, int slave, Snap__Terminal *t, struct err *err);

/* Makes a fresh one what terminal_read has seen. The slave must not be anybody's controlling terminal yet.
 * Lock, exclusive mode and packet mode, which stand in the way of opening it, are left to terminal_close. */
int terminal_write(int master, int slave, const Snap__Terminal *t, struct err *err);
/* When all slaves are open. */
int terminal_close(int master, int slave, const Snap__Terminal *t, struct err *err);

#endif
