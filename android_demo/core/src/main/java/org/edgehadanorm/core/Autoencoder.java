package org.edgehadanorm.core;

import java.util.Arrays;

/** Pictures to latents and back by the programs of a bundle, tile by tile; where it has none, latents are pictures. */
final class Autoencoder {
    private final Bundle bundle;
    private final ModuleRunner.Loader loader;
    private final boolean decodes;

    /** decodes: whether there is memory for `decode`; else a method for smaller tiles, where there is one, does it. */
    Autoencoder(Bundle bundle, ModuleRunner.Loader loader, boolean decodes) {
        this.bundle = bundle;
        this.loader = loader;
        this.decodes = decodes;
    }

    /** Throws BundleException, before anything is loaded, where no picture can begin with this one. */
    void check(Original original) throws BundleException {
        if (!bundle.takesOriginals()) {
            boolean decoded = bundle.programs().containsKey(Links.DECODER);
            throw new BundleException("bundle " + bundle.name() + (decoded
                    ? " has no image encoder, so that no picture can begin with another: export it with --with-encoder"
                    : " draws in grey alone, so that no picture can begin with one in colours: take another bundle"));
        }
        checkSize("picture to begin with", original.picture());
        if (original.mask().isPresent()) {
            checkSize("mask", original.mask().get());
        }
    }

    private void checkSize(String what, Picture picture) throws BundleException {
        if (picture.width() != bundle.width() || picture.height() != bundle.height()) {
            throw new BundleException("the " + what + " has " + picture.width() + " x " + picture.height()
                    + " pixels; bundle " + bundle.name() + " draws " + bundle.width() + " x " + bundle.height()
                    + ": cut it to that");
        }
    }

    /** What the sampling begins with. */
    Known encoded(Original original, Listener listener) throws RunnerException, BundleException, Cancelled {
        Picture picture = original.picture();
        Program encoder = bundle.programs().get(Links.IMAGE_ENCODER);
        Tensor latents = bundle.programs().containsKey(Links.DECODER) ? encoded(encoder, picture, listener)
                : Tensor.of(picture.values(), 1, Picture.CHANNELS, picture.height(), picture.width());
        int[] shape = bundle.latentShape();
        if (!Arrays.equals(latents.shape(), new long[] {1, shape[0], shape[1], shape[2]})) {
            throw new BundleException("bundle " + bundle.name() + ": the latents of a picture are "
                    + TensorSpec.describe(latents) + ", which its denoiser does not take; export the bundle again");
        }
        return new Known(latents.floats(), original.maskOf(shape[1], shape[2]));
    }

    private Tensor encoded(Program encoder, Picture picture, Listener listener) throws RunnerException, Cancelled {
        Generator.begin(Phase.ENCODE_PICTURE, listener);
        Method encode = encoder.method("encode");
        int grain = Math.max(1, picture.width() / bundle.latentShape()[2]);
        Tiles tiles = new Tiles(window(encode), grain, Picture.CHANNELS, picture.height(), picture.width());
        return coded(encoder, encode, tiles, picture.values(), listener);
    }

    /** The picture [1, C, H, W] of latents, by smaller tiles where memory is short for the others. */
    Tensor decoded(float[] latents, Listener listener) throws RunnerException, Cancelled {
        int[] shape = bundle.latentShape();
        Program decoder = bundle.programs().get(Links.DECODER);
        if (decoder == null) {
            return Tensor.of(latents, 1, shape[0], shape[1], shape[2]);
        }
        Generator.begin(Phase.DECODE, listener);
        if (!decoder.methods().containsKey(Links.SMALL)) {
            return decoded(decoder, "decode", latents, listener);
        }
        if (!decodes) {
            return decoded(decoder, Links.SMALL, latents, listener);
        }
        try {
            return decoded(decoder, "decode", latents, listener);
        } catch (RunnerException | OutOfMemoryError error) {  // a runtime seldom says that it was memory
            return decoded(decoder, Links.SMALL, latents, listener);
        }
    }

    private Tensor decoded(Program decoder, String name, float[] latents, Listener listener)
            throws RunnerException, Cancelled {
        int[] shape = bundle.latentShape();
        Method decode = decoder.method(name);
        return coded(decoder, decode, new Tiles(window(decode), 1, shape[0], shape[1], shape[2]), latents, listener);
    }

    private Tensor coded(Program program, Method method, Tiles tiles, float[] values, Listener listener)
            throws RunnerException, Cancelled {
        try (ModuleRunner runner = program.load(loader, method)) {
            return tiles.coded(values, tile -> {
                Generator.stopIfCancelled(listener);
                return method.run(runner, tile)[0];
            });
        }
    }

    /** The shape of the tiles that a method takes. */
    private static long[] window(Method method) {
        return method.inputs().get(0).shape();
    }
}
