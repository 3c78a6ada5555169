#include "watchdog/signals.h"

#include <stddef.h>

/* Batch systems warn a job of its limits with some of these. */
static const int passed_on[] = {SIGQUIT, SIGUSR2, SIGALRM, SIGXCPU, SIGPWR};
static const int own[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGWINCH, SIGCONT, SIGTSTP};
static const int only_blocked[] = {SIGPIPE, SIGTTOU, SIGTTIN};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static bool is_ignored(int signo)
{
	struct sigaction action;

	return sigaction(signo, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

static void add(sigset_t *set, const int *signals, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (!is_ignored(signals[i]))
			sigaddset(set, signals[i]);
}

void signals_block(sigset_t *ret_handled)
{
	sigset_t all;

	sigemptyset(ret_handled);
	add(ret_handled, passed_on, COUNT(passed_on));
	add(ret_handled, own, COUNT(own));
	all = *ret_handled;
	add(&all, only_blocked, COUNT(only_blocked));
	sigprocmask(SIG_BLOCK, &all, NULL);
}

bool signal_is_passed_on(int signo)
{
	size_t i;

	for (i = 0; i < COUNT(passed_on); i++)
		if (passed_on[i] == signo)
			return true;
	return false;
}
