# fork, pipes, threads and Open3 in Ruby. Usage: forks.rb ROUNDS
require 'open3'
# all of it now: loading a part on demand is not safe in threads ("Digest::Base cannot be directly inherited")
require 'digest/sha2'
require 'digest/md5'
$stdout.sync = true
Integer(ARGV[0]).times do |round|
  children = 3.times.map do |n|
    read, write = IO.pipe
    pid = fork do
      read.close
      text = "#{round} #{n}"
      8000.times { text = Digest::SHA256.hexdigest(text) }
      write.puts text
      exit! n
    end
    write.close
    [pid, read]
  end
  sorted, status = Open3.capture2('sort -n', stdin_data: (1..500).map { |i| i * 7919 % 1009 }.join("\n"))
  threads = 3.times.map { |n| Thread.new { Digest::MD5.hexdigest(sorted * (n + 1)) } }
  answers = children.map { |pid, read| [read.read.strip[0, 8], Process.wait2(pid)[1].exitstatus] }
  puts "#{round} #{answers.flatten.join(' ')} #{threads.map(&:value).join(' ')[0, 20]} #{status.exitstatus}"
end
