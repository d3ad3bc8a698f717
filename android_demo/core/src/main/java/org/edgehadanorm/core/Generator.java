package org.edgehadanorm.core;

import java.util.EnumMap;
import java.util.Map;
import java.util.Optional;

/**
 * Makes pictures with a bundle. Programs are in memory one at a time: the image encoder and each text encoder are
 * closed before the next program is loaded, the denoiser's `prepare` before its steps, and these before the image
 * decoder.
 */
public final class Generator {
    private static final int MOST_LATENTS = 1 << 26;

    private final Bundle bundle;
    private final ModuleRunner.Loader loader;
    private final Clock clock;

    public Generator(Bundle bundle, ModuleRunner.Loader loader) {
        this(bundle, loader, Clock.SYSTEM);
    }

    Generator(Bundle bundle, ModuleRunner.Loader loader, Clock clock) {
        this.bundle = bundle;
        this.loader = loader;
        this.clock = clock;
    }

    /**
     * The picture that is asked for: the same bits as Python's loop makes with the same programs.
     *
     * @throws BundleException where the bundle cannot make pictures here or not the one that is asked for
     * @throws RunnerException where a program cannot be loaded or run, or the memory for it is not free
     * @throws Cancelled where the listener asked to stop
     */
    public Picture generate(Request request, Listener listener) throws RunnerException, BundleException, Cancelled {
        check(request);
        Plan plan = bundle.plan(request);
        Sampler sampler = new Sampler(plan, request.guidance());
        long free = loader.free();
        Autoencoder autoencoder = new Autoencoder(bundle, loader, bundle.memory().decodes(free));
        if (request.original().isPresent()) {
            plan.requireKnown(request.original().get().mask().isPresent());
            autoencoder.check(request.original().get());
        }
        bundle.memory().require(bundle.name(), free, request.original().isPresent());
        try {
            Optional<Known> known = request.original().isPresent()
                    ? Optional.of(autoencoder.encoded(request.original().get(), listener)) : Optional.empty();
            Map<Conditioning, Tensor[]> inputs = inputs(sampler, request, listener);
            float[] latents = denoised(inputs, sampler, request.seed(), known, listener);
            Tensor picture = autoencoder.decoded(latents, listener);
            long[] size = picture.shape();
            return Picture.of(picture.floats(), (int) size[1], (int) size[2], (int) size[3]);
        } catch (OutOfMemoryError error) {
            throw new RunnerException("not enough memory for bundle " + bundle.name()
                    + "; close other apps or take a smaller bundle", error);
        }
    }

    private void check(Request request) throws BundleException {
        bundle.requireRunnable(loader.targets());
        if (request.seed() < 0) {
            throw new BundleException("seed is " + request.seed() + ", not a number from 0 to " + Long.MAX_VALUE);
        }
        int[] shape = bundle.latentShape();
        int channels = shape[0];
        if ((double) channels * shape[1] * shape[2] > MOST_LATENTS) {
            throw new BundleException("bundle " + bundle.name() + " has latents of " + channels + " x " + shape[1]
                    + " x " + shape[2] + " numbers, more than a phone can hold; take a smaller bundle");
        }
        if (!bundle.programs().containsKey(Links.DECODER) && channels != 1 && channels != 3) {
            throw new BundleException("bundle " + bundle.name() + " has no " + Links.DECODER + " for its latents of "
                    + channels + " channels; export the bundle again");
        }
    }

    /** What the denoiser is prepared with, for the prompts that some step predicts for. */
    private Map<Conditioning, Tensor[]> inputs(Sampler sampler, Request request, Listener listener)
            throws RunnerException, BundleException, Cancelled {
        Map<Conditioning, String> prompts = new EnumMap<>(Conditioning.class);
        prompts.put(Conditioning.TEXT, request.prompt());
        prompts.put(Conditioning.NEGATIVE, request.negative());
        prompts.keySet().removeIf(conditioning -> !sampler.predicts(conditioning));
        return new Prompts(bundle).inputs(prompts, (role, given) -> {
            begin(Phase.ENCODE, listener);
            Program encoder = bundle.programs().get(role);
            Method encode = encoder.method("encode");
            try (ModuleRunner runner = encoder.load(loader, encode)) {
                return each(encode, runner, given);
            }
        });
    }

    /** What a method makes of the inputs for each prompt. */
    private static Map<Conditioning, Tensor[]> each(Method method, ModuleRunner runner,
            Map<Conditioning, Tensor[]> given) throws RunnerException {
        Map<Conditioning, Tensor[]> made = new EnumMap<>(Conditioning.class);
        for (Map.Entry<Conditioning, Tensor[]> entry : given.entrySet()) {
            made.put(entry.getKey(), method.run(runner, entry.getValue()));
        }
        return made;
    }

    private float[] denoised(Map<Conditioning, Tensor[]> inputs, Sampler sampler, long seed, Optional<Known> known,
            Listener listener) throws RunnerException, Cancelled {
        begin(Phase.PREPARE, listener);
        Program denoiser = bundle.programs().get(Links.DENOISER);
        boolean pixels = !bundle.programs().containsKey(Links.DECODER);
        int[] shape = bundle.latentShape();
        int count = shape[0] * shape[1] * shape[2];
        Method prepare = denoiser.method("prepare");
        Method denoise = denoiser.method("denoise");
        Map<Conditioning, Tensor[]> prepared;
        try (ModuleRunner runner = denoiser.load(loader, prepare)) {
            prepared = each(prepare, runner, inputs);
            inputs.clear();  // what the text encoders gave is not needed any more
        }
        stopIfCancelled(listener);
        try (ModuleRunner runner = denoiser.load(loader, denoise)) {
            begin(Phase.DENOISE, listener);
            Sampler.Model model = (latents, timestep, which) -> {
                Tensor[] conditioning = prepared.get(which);
                Tensor[] given = new Tensor[2 + conditioning.length];
                given[0] = Tensor.of(latents, 1, shape[0], shape[1], shape[2]);
                given[1] = Tensor.of(new float[] {timestep}, 1);
                System.arraycopy(conditioning, 0, given, 2, conditioning.length);
                return denoise.run(runner, given)[0].floats();
            };
            long[] last = {clock.nanoseconds()};
            return sampler.sample(model, stream -> Noise.normal(seed, count, stream), known, (k, latents) -> {
                long now = clock.nanoseconds();
                Picture preview = Preview.of(latents, shape[0], shape[1], shape[2], pixels);
                listener.step(k + 1, sampler.steps(), (now - last[0]) / 1e6, preview);
                stopIfCancelled(listener);
                last[0] = clock.nanoseconds();
            });
        }
    }

    /** Tells of a phase. Throws Cancelled where nobody wants it any more. */
    static void begin(Phase phase, Listener listener) throws Cancelled {
        stopIfCancelled(listener);
        listener.phase(phase);
    }

    static void stopIfCancelled(Listener listener) throws Cancelled {
        if (listener.cancelled()) {
            throw new Cancelled();
        }
    }
}
