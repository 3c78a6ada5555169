# A pool of forked workers that answer through pipes. Usage: forks.pl ROUNDS
use strict;
use warnings;
use POSIX ":sys_wait_h";
my $rounds = shift;
$| = 1;
for my $round (1 .. $rounds) {
    my (%pipe, %status);
    for my $n (1 .. 4) {
        pipe(my $read, my $write) or die;
        my $pid = fork() // die;
        if (!$pid) {
            close $read;
            my $x = $round * 7 + $n;
            for (1 .. 60000) { $x = ($x * 1103515245 + 12345) % 2147483648; }
            print $write "$n $x\n" x 300;
            close $write;
            POSIX::_exit($x % 7);
        }
        close $write;
        $pipe{$pid} = [$n, $read];
    }
    my @lines;
    for my $pid (sort { $pipe{$a}[0] <=> $pipe{$b}[0] } keys %pipe) {
        my ($n, $read) = @{$pipe{$pid}};
        my @got = <$read>;
        waitpid($pid, 0) == $pid or die "waitpid: $!";
        chomp $got[0];
        push @lines, scalar(@got) . " $got[0] " . ($? >> 8);
    }
    print "$round: @lines\n";
}
