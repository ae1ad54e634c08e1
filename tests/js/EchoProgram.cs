// A program on examples/Signaling.cs: its peers send back what they hear, until its input ends.

using System;
using System.Linq;
using System.Threading;
using System.Threading.Tasks;
static class Program
{
    static void Main(string[] args)
    {
        var cancellation = new CancellationTokenSource();
        var running = args.Skip(1).Select(name => Echo(args[0], name, cancellation.Token)).ToArray();
        while (Console.ReadLine() != null) { }
        cancellation.Cancel();
        Task.WaitAll(running);
    }

    static async Task Echo(string url, string name, CancellationToken cancellation)
    {
        var signaling = new Signaling(url, name);
        signaling.SignedIn += id => Console.WriteLine(name + " signed in " + id);
        signaling.PeersChanged += peers => Console.WriteLine(name + " peers " + string.Join(" ", peers.Select(peer => peer.Name)));
        signaling.Lost += error => Console.WriteLine(name + " lost");
        signaling.MessageReceived += (from, text) =>
        {
            if (text == "fail") throw new InvalidOperationException("as asked");
            Answer(signaling, from, "echo " + text);
        };
        try
        {
            await signaling.Run(cancellation);
            Console.WriteLine(name + " signed out");
        }
        catch (InvalidOperationException error)
        {
            Console.WriteLine(name + " failed " + error.Message);
        }
    }

    static async void Answer(Signaling signaling, int to, string text)
    {
        try { await signaling.Send(to, text); }
        catch (SignalingException error) { Console.WriteLine("refused " + error.Status); }
    }
}
