/* signals.h: what a watchdog does with each signal. */
#ifndef PAWL_WATCHDOG_SIGNALS_H
#define PAWL_WATCHDOG_SIGNALS_H

#include <signal.h>
#include <stdbool.h>

/* Blocks all that is handled, and SIGPIPE, SIGTTOU and SIGTTIN, whose system calls then fail
 * instead. *ret_handled: what to read from a signalfd. What the caller ignored (nohup's SIGHUP) is
 * left alone: a blocked signal would be queued even if it is ignored (kernel/signal.c,
 * sig_ignored). */
void signals_block(sigset_t *ret_handled);
/* A signal that pawl has no use for itself and hands to the job. */
bool signal_is_passed_on(int signo);

#endif
