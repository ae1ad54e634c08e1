// A program on examples/Signaling.cs: it sends back what it hears, until its input ends.

using System;
using System.Collections.Concurrent;
using System.Linq;
using System.Threading;
static class Program
{
    static void Main(string[] args)
    {
        var cancellation = new CancellationTokenSource();
        var signaling = new Signaling(args[0], args[1]);
        signaling.SignedIn += id => Console.WriteLine("signed in " + id);
        signaling.PeersChanged += peers => Console.WriteLine("peers " + string.Join(" ", peers.Select(peer => peer.Name)));
        signaling.Lost += error => Console.WriteLine("lost");
        signaling.MessageReceived += async (from, text) =>
        {
            try { await signaling.Send(from, "echo " + text); }
            catch (SignalingException error) { Console.WriteLine("refused " + error.Status); }
        };
        var running = signaling.Run(cancellation.Token);
        while (Console.ReadLine() != null) { }
        cancellation.Cancel();
        running.Wait();
        Console.WriteLine("signed out");
    }
}
