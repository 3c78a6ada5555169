/*
 * signals.c: dispositions, masks, pending signals with their siginfo, threads inside sigsuspend,
 * pause and sigwaitinfo, and one inside a handler on its alternate stack.
 */
#include "target.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ALTSTACK_SIZE 65536

/* Handlers take no argument of ours: what they see must be static. */
static struct {
	struct target target;
	volatile sig_atomic_t usr1_count, usr2_count;
	volatile sig_atomic_t handler_entered, handler_right;
} state;

static void on_usr1(int signo, siginfo_t *info, void *context)
{
	(void)info;
	(void)context;
	CHECK_EQ(signo, SIGUSR1);
	state.usr1_count++;
}

static void on_usr2(int signo)
{
	CHECK_EQ(signo, SIGUSR2);
	state.usr2_count++;
}

/* Runs on the alternate stack all the while the target is saved and recovered. */
static void on_vtalrm(int signo, siginfo_t *info, void *context)
{
	uint64_t pattern[512];
	stack_t stack;

	(void)signo;
	(void)context;
	pattern_fill(pattern, sizeof(pattern), 99);
	state.handler_entered = 1;
	target_wait(&state.target);
	CHECK(sigaltstack(NULL, &stack) == 0);
	CHECK(stack.ss_flags & SS_ONSTACK);
	CHECK((char *)pattern >= (char *)stack.ss_sp &&
	      (char *)pattern < (char *)stack.ss_sp + stack.ss_size);
	CHECK(pattern_holds(pattern, sizeof(pattern), 99));
	CHECK_EQ(info->si_code, SI_TKILL);
	state.handler_right = 1;
}

static void install(int signo, void (*handler)(int, siginfo_t *, void *), int flags, int masked)
{
	struct sigaction action = {.sa_sigaction = handler, .sa_flags = flags};

	sigemptyset(&action.sa_mask);
	if (masked)
		sigaddset(&action.sa_mask, masked);
	CHECK(sigaction(signo, &action, NULL) == 0);
}

static void check_installed(int signo, void *handler, int flags, int masked)
{
	struct sigaction action;

	CHECK(sigaction(signo, NULL, &action) == 0);
	CHECK((void *)action.sa_sigaction == handler);
	CHECK_EQ(action.sa_flags & ~0x04000000 /* SA_RESTORER */, flags);
	for (int i = 1; i < 32; i++)
		CHECK_EQ(sigismember(&action.sa_mask, i), i == masked);
}

static void *in_sigsuspend(void *arg)
{
	sigset_t all, now;

	(void)arg;
	sigfillset(&all);
	sigdelset(&all, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &(sigset_t){}, NULL);
	while (!state.usr2_count)
		sigsuspend(&all);
	pthread_sigmask(SIG_BLOCK, NULL, &now);
	CHECK(sigismember(&now, SIGUSR2) && sigismember(&now, SIGWINCH));
	return NULL;
}

static void *in_pause(void *arg)
{
	sigset_t usr1;

	(void)arg;
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	pthread_sigmask(SIG_UNBLOCK, &usr1, NULL);
	while (!state.usr1_count)
		pause();
	return NULL;
}

static void *in_sigwaitinfo(void *arg)
{
	sigset_t set;
	siginfo_t info;
	int got;

	(void)arg;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 5);
	do
		got = sigwaitinfo(&set, &info);
	while (got < 0 && errno == EINTR);
	CHECK_EQ(got, SIGRTMIN + 5);
	CHECK_EQ(info.si_value.sival_int, 55);
	return NULL;
}

static void *in_handler(void *arg)
{
	char *room = malloc(ALTSTACK_SIZE);
	stack_t stack = {.ss_sp = room, .ss_size = ALTSTACK_SIZE}, now;

	(void)arg;
	CHECK(sigaltstack(&stack, NULL) == 0);
	pthread_kill(pthread_self(), SIGVTALRM);
	CHECK(state.handler_right);
	CHECK(sigaltstack(NULL, &now) == 0);
	CHECK(now.ss_sp == room && now.ss_size == ALTSTACK_SIZE && now.ss_flags == 0);
	stack.ss_flags = SS_DISABLE;
	sigaltstack(&stack, NULL);
	free(room);
	return NULL;
}

static void queue_to_self(int signo, int value)
{
	CHECK(sigqueue(getpid(), signo, (union sigval){.sival_int = value}) == 0);
}

static void queue_to_thread(int signo, int value)
{
	siginfo_t info = {.si_signo = signo, .si_code = SI_QUEUE};

	info.si_pid = getpid();
	info.si_uid = getuid();
	info.si_value.sival_int = value;
	CHECK(syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), signo, &info) == 0);
}

static void expect_pending(int signo, int code, int value)
{
	struct timespec none = {0, 0};
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, signo);
	CHECK_EQ(sigtimedwait(&set, &info, &none), signo);
	CHECK_EQ(info.si_code, code);
	CHECK_EQ(info.si_pid, getpid());
	CHECK_EQ(info.si_uid, getuid());
	if (code == SI_QUEUE)
		CHECK_EQ(info.si_value.sival_int, value);
}

static void expect_nothing_pending(void)
{
	sigset_t set;

	CHECK(sigpending(&set) == 0);
	for (int i = 1; i <= SIGRTMAX; i++)
		CHECK(sigismember(&set, i) != 1);
}

static void block_test_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGWINCH);
	for (int i = 0; i < 6; i++)
		sigaddset(&set, SIGRTMIN + i);
	CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
}

static void set_up(void)
{
	install(SIGUSR1, on_usr1, SA_SIGINFO | SA_RESTART, SIGHUP);
	install(SIGVTALRM, on_vtalrm, SA_SIGINFO | SA_ONSTACK, 0);
	install(SIGUSR2, (void (*)(int, siginfo_t *, void *))(void *)on_usr2, SA_NODEFER, SIGTERM);
	signal(SIGHUP, SIG_IGN);
	block_test_signals();
	for (int i = 0; i < 3; i++)
		queue_to_self(SIGRTMIN, 11 + i);
	queue_to_thread(SIGRTMIN + 1, 21);
	queue_to_thread(SIGRTMIN + 1, 22);
	raise(SIGWINCH);
}

static void check_dispositions(void)
{
	struct sigaction action;

	check_installed(SIGUSR1, (void *)on_usr1, SA_SIGINFO | SA_RESTART, SIGHUP);
	check_installed(SIGVTALRM, (void *)on_vtalrm, SA_SIGINFO | SA_ONSTACK, 0);
	check_installed(SIGUSR2, (void *)on_usr2, SA_NODEFER, SIGTERM);
	sigaction(SIGHUP, NULL, &action);
	CHECK(action.sa_handler == SIG_IGN);
	sigaction(SIGTERM, NULL, &action);
	CHECK(action.sa_handler == SIG_DFL);
}

static void check_pending(void)
{
	for (int i = 0; i < 3; i++)
		expect_pending(SIGRTMIN, SI_QUEUE, 11 + i);
	expect_pending(SIGRTMIN + 1, SI_QUEUE, 21);
	expect_pending(SIGRTMIN + 1, SI_QUEUE, 22);
	expect_pending(SIGWINCH, SI_USER, 0); /* sigtimedwait(3) shows SI_TKILL so */
	expect_nothing_pending();
}

int main(int argc, char **argv)
{
	void *(*const mains[])(void *) = {in_sigsuspend, in_pause, in_sigwaitinfo, in_handler};
	pthread_t threads[4];

	target_start(&state.target, argc, argv);
	set_up();
	for (int i = 0; i < 4; i++)
		CHECK(pthread_create(&threads[i], NULL, mains[i], NULL) == 0);
	while (!state.handler_entered)
		sleep_ms(1);
	sleep_ms(20);
	target_ready(&state.target);
	target_wait(&state.target);

	check_dispositions();
	CHECK(state.usr1_count == 0 && state.usr2_count == 0);
	check_pending();
	CHECK(pthread_kill(threads[0], SIGUSR2) == 0);
	CHECK(pthread_kill(threads[1], SIGUSR1) == 0);
	CHECK(pthread_sigqueue(threads[2], SIGRTMIN + 5, (union sigval){.sival_int = 55}) == 0);
	for (int i = 0; i < 4; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	CHECK(state.usr1_count == 1 && state.usr2_count == 1);
	return target_pass(&state.target);
}
