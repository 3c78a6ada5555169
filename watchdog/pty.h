/*
 * pty.h: the job's pseudo-terminal, and the caller's own terminal while pawl stands between them.
 */
#ifndef PAWL_WATCHDOG_PTY_H
#define PAWL_WATCHDOG_PTY_H

#include <stdbool.h>
#include <sys/types.h>

#include "store/base/err.h"
#include "store/snapshot.h"

/* A new pseudo-terminal, both ends FD_CLOEXEC, the master non-blocking. */
int pty_open(int *ret_master, int *ret_slave, struct err *err);
/* Settings and window size of terminal `from` for the pty. Best effort: a terminal without them
 * gives the kernel's defaults. */
void pty_copy_settings(int master, int from);
void pty_copy_size(int master, int from);
/* Settings and size into the model and back. */
int pty_save(int master, Snap__Capsule *capsule, struct err *err);
int pty_load(int master, const Snap__Capsule *capsule, struct err *err);
/* Foreground process group, as a host pid; 0: none. */
pid_t pty_foreground(int master);

/* The caller's terminal. Zeroed with fd -1 where there is none. */
struct outer_terminal {
	int fd;		/* one of 0, 1, 2 */
	bool keys;	/* standard input is this terminal: what is typed goes to the job */
	bool keep_post; /* other programs write to it too: leave output processing on */
	bool raw;
	unsigned char saved[64]; /* struct termios2 before raw */
};

/* Whether this process's group may change the terminal's settings and read from it. */
bool outer_is_foreground(const struct outer_terminal *outer);
/* Raw mode, where keys are wanted and the process is in the foreground. */
void outer_enter(struct outer_terminal *outer);
/* The settings that outer_enter found. Harmless when not raw. */
void outer_leave(struct outer_terminal *outer);
/* The terminal turns "\n" into "\r\n" by itself. */
bool outer_adds_cr(const struct outer_terminal *outer);

#endif
