/* The kernel's termbits.h is the one that has struct termios2; it cannot be mixed with termios.h.
 */
#include "watchdog/pty.h"

#include <asm/termbits.h>
#include <assert.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "store/base/cleanup.h"

static_assert(sizeof(struct termios2) <= sizeof(((struct outer_terminal *)0)->saved), "room");

int pty_open(int *ret_master, int *ret_slave, struct err *err)
{
	cleanup_fd int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	int slave;

	if (master < 0)
		return err_sys(err, "cannot open a pseudo-terminal");
	if (grantpt(master) < 0 || unlockpt(master) < 0)
		return err_sys(err, "cannot unlock a pseudo-terminal");
	slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave < 0)
		return err_sys(err, "cannot open the slave of a pseudo-terminal");
	*ret_master = steal_fd(&master);
	*ret_slave = slave;
	return 0;
}

void pty_copy_settings(int master, int from)
{
	struct termios2 settings;

	if (ioctl(from, TCGETS2, &settings) == 0)
		ioctl(master, TCSETS2, &settings);
	pty_copy_size(master, from);
}

void pty_copy_size(int master, int from)
{
	struct winsize size;

	if (ioctl(from, TIOCGWINSZ, &size) == 0)
		ioctl(master, TIOCSWINSZ, &size);
}

int pty_save(int master, Snap__Capsule *capsule, struct err *err)
{
	struct termios2 settings;
	struct winsize size;

	if (ioctl(master, TCGETS2, &settings) < 0 || ioctl(master, TIOCGWINSZ, &size) < 0)
		return err_sys(err, "cannot read the settings of the job's terminal");
	if (snap_set_bytes(&capsule->termios, &settings, sizeof(settings)) < 0)
		return err_sys(err, "the job's terminal");
	capsule->has_terminal = true;
	capsule->rows = size.ws_row;
	capsule->columns = size.ws_col;
	return 0;
}

int pty_load(int master, const Snap__Capsule *capsule, struct err *err)
{
	struct winsize size = {.ws_row = (unsigned short)capsule->rows,
			       .ws_col = (unsigned short)capsule->columns};
	struct termios2 settings;

	if (capsule->termios.len != sizeof(settings))
		return err_set(err, ERR_CORRUPT, "the snapshot's terminal settings have %zu bytes",
			       capsule->termios.len);
	memcpy(&settings, capsule->termios.data, sizeof(settings));
	if (ioctl(master, TCSETS2, &settings) < 0 || ioctl(master, TIOCSWINSZ, &size) < 0)
		return err_sys(err, "cannot set up the job's terminal");
	return 0;
}

pid_t pty_foreground(int master)
{
	pid_t group;

	return ioctl(master, TIOCGPGRP, &group) == 0 && group > 0 ? group : 0;
}

bool outer_is_foreground(const struct outer_terminal *outer)
{
	pid_t group;

	return outer->fd >= 0 && ioctl(outer->fd, TIOCGPGRP, &group) == 0 && group == getpgrp();
}

void outer_enter(struct outer_terminal *outer)
{
	struct termios2 settings;

	if (!outer->keys || outer->raw || !outer_is_foreground(outer) ||
	    ioctl(outer->fd, TCGETS2, &settings) < 0)
		return;
	memcpy(outer->saved, &settings, sizeof(settings));
	settings.c_iflag &= ~(unsigned)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL |
					IXON | IXANY | IXOFF);
	if (!outer->keep_post)
		settings.c_oflag &= ~(unsigned)OPOST;
	settings.c_lflag &= ~(unsigned)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
	settings.c_cc[VMIN] = 1;
	settings.c_cc[VTIME] = 0;
	if (ioctl(outer->fd, TCSETS2, &settings) == 0)
		outer->raw = true;
}

void outer_leave(struct outer_terminal *outer)
{
	struct termios2 settings;

	if (!outer->raw)
		return;
	memcpy(&settings, outer->saved, sizeof(settings));
	/* TCSETSW2: what was written in raw mode is shown in raw mode. SIGTTOU is blocked here. */
	ioctl(outer->fd, TCSETSW2, &settings);
	outer->raw = false;
}

bool outer_adds_cr(const struct outer_terminal *outer)
{
	struct termios2 settings;

	if (outer->fd < 0 || ioctl(outer->fd, TCGETS2, &settings) < 0)
		return false;
	return (settings.c_oflag & (OPOST | ONLCR)) == (OPOST | ONLCR);
}
